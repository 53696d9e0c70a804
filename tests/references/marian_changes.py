"""What tests of Marian checkpoints share: changes on disk, and why a live test is skipped."""

import json

REASON = "comes with the extra [references]"


def change(path, **settings):
    """Set names of a JSON file; None removes one."""
    values = json.loads(path.read_text(encoding="utf-8")) | settings
    values = {name: value for name, value in values.items() if value is not None}
    path.write_text(json.dumps(values), encoding="utf-8")


def change_weights(folder, change):
    """Let `change` rewrite the dict of tensors."""
    from safetensors.numpy import load_file, save_file

    arrays = load_file(folder / "model.safetensors")
    change(arrays)
    save_file(arrays, folder / "model.safetensors")

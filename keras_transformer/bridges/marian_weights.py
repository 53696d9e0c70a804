"""The tensors of a Marian checkpoint: read, checked, and copied into a `Transformer`."""

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.backend import install_hint
from keras_transformer.config import TransformerConfig
from keras_transformer.layers.positional import sinusoidal_positions

Arrays = Mapping[str, np.ndarray]
SHOWN = 3  # names in an error message
COPY_AGAIN = "Copy it again, all of it: a clone may hold only a pointer to the file."

# Our linear maps, and those of Marian that stand beside each other in them.
ENCODER_MAPS = {
    "self_attention.input_projection": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.output_projection": ("self_attn.out_proj",),
    "feed_forward.inner": ("fc1",),
    "feed_forward.outer": ("fc2",),
}
DECODER_MAPS = ENCODER_MAPS | {
    "cross_attention.query_projection": ("encoder_attn.q_proj",),
    "cross_attention.memory_projection": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross_attention.output_projection": ("encoder_attn.out_proj",),
}
ENCODER_NORMS = {
    "self_attention_norm": "self_attn_layer_norm",
    "feed_forward_norm": "final_layer_norm",
}
DECODER_NORMS = ENCODER_NORMS | {"cross_attention_norm": "encoder_attn_layer_norm"}

SOURCE_EMBEDDING = "model.encoder.embed_tokens.weight"
TARGET_EMBEDDING = "model.decoder.embed_tokens.weight"
OUTPUT = "lm_head.weight"
SHARED = "model.shared.weight"
OUTPUT_BIAS = "final_logits_bias"  # where it is missing, it is zero
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
POSITION_TOLERANCE = 0.01  # a table in bfloat16 is nearly that far off, another layout far more


class Copy(NamedTuple):
    """A variable of ours, and the tensors it is made of.

    Attributes:
        path: from the model to the variable, with dots; numbers are places in a list.
        names: tensors that stand beside each other in it.
        shape: of each of them; those of linear maps are `[outputs, inputs]`, ours transposed.
        aliases: other names of the one tensor; a file has it under one of them or under several.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = ()


def read_weights(folder: Path) -> tuple[Path, Arrays]:
    """Return the file with the weights, and its tensors in float32.

    Raises:
        ValueError: no such file, or it is damaged.
        ImportError: what reads it is not installed.
    """
    for name, read in {
        "model.safetensors": _read_safetensors,
        "pytorch_model.bin": _read_torch,
    }.items():
        path = folder / name
        if path.is_file():
            return path, {name: _float32(path, name, array) for name, array in read(path)}
    raise ValueError(
        f"{folder}: must have the weights in model.safetensors or pytorch_model.bin. Copy one of "
        "them into the folder."
    )


def check_weights(path: Path, arrays: Arrays, config: TransformerConfig) -> None:
    """Hold the names and shapes of a file to the architecture.

    Raises:
        ValueError: missing, unknown or misshapen tensors, tensors that must be equal and are not,
            or positions that are not sinusoidal; the file and a few of the names are in it.
    """
    copies = list(_copies(config))
    known = {name for copy in copies for name in (*copy.names, *copy.aliases)}
    missing = [
        name
        for copy in copies
        for name in copy.names
        if name != OUTPUT_BIAS and not arrays.keys() & {name, *copy.aliases}
    ]
    unknown = [name for name in arrays if name not in known and name not in POSITIONS]
    if missing or unknown:
        raise ValueError(
            f"{path}: must have the tensors of the Marian model that config.json describes "
            f"({config.num_encoder_layers} + {config.num_decoder_layers} layers), no fewer and no "
            f"more. Received: missing {_some(missing)}; unknown {_some(unknown)}"
        )
    for copy in copies:
        found = [name for name in (*copy.names, *copy.aliases) if name in arrays]
        for name in found:
            if arrays[name].shape != copy.shape:
                raise ValueError(
                    f"{path}: {name} must have the shape {copy.shape}, as config.json says. "
                    f"Received: shape={arrays[name].shape}"
                )
        if copy.aliases and any((arrays[n] != arrays[found[0]]).any() for n in found):
            raise ValueError(
                f"{path}: {', '.join(found)} must be equal, as config.json ties them. Correct "
                "share_encoder_decoder_embeddings or tie_word_embeddings."
            )
    for name in POSITIONS:
        if name in arrays:
            _check_positions(path, name, arrays[name], config)


def assign(model: Any, arrays: Arrays) -> None:
    """Copy checked tensors into a `Transformer` of the same architecture."""
    for copy in _copies(model.config):
        found = [arrays[name] for name in (*copy.names, *copy.aliases) if name in arrays]
        found = found[:1] if copy.aliases else found
        variable = reduce(_part, copy.path.split("."), model)
        if copy.path == "output_bias":
            value = found[0][0] if found else np.zeros(variable.shape, "float32")
        elif copy.path.endswith("embeddings"):
            value = found[0]
        else:
            value = np.concatenate([array.T for array in found], axis=-1)
        variable.assign(value)


def _part(whole: Any, name: str) -> Any:
    return whole[int(name)] if name.isdigit() else getattr(whole, name)


def _copies(config: TransformerConfig) -> Iterator[Copy]:
    """Yield every variable of the model with its place in a Marian checkpoint."""
    yield from _embeddings(config)
    yield Copy("output_bias", (OUTPUT_BIAS,), (1, config.target_vocab_size))
    d, f = config.d_model, config.d_ff
    for side, count, maps, norms in (
        ("encoder", config.num_encoder_layers, ENCODER_MAPS, ENCODER_NORMS),
        ("decoder", config.num_decoder_layers, DECODER_MAPS, DECODER_NORMS),
    ):
        for index in range(count):
            ours, theirs = f"{side}.layers.{index}", f"model.{side}.layers.{index}"
            for path, names in maps.items():
                inner, outer = path.endswith("inner"), path.endswith("outer")
                outputs, inputs = f if inner else d, f if outer else d
                weights = tuple(f"{theirs}.{name}.weight" for name in names)
                biases = tuple(f"{theirs}.{name}.bias" for name in names)
                yield Copy(f"{ours}.{path}.kernel", weights, (outputs, inputs))
                yield Copy(f"{ours}.{path}.bias", biases, (outputs,))
            for path, name in norms.items():
                yield Copy(f"{ours}.{path}.gamma", (f"{theirs}.{name}.weight",), (d,))
                yield Copy(f"{ours}.{path}.beta", (f"{theirs}.{name}.bias",), (d,))


def _embeddings(config: TransformerConfig) -> Iterator[Copy]:
    d = config.d_model
    source, target = (config.source_vocab_size, d), (config.target_vocab_size, d)
    tokens = "token_embedding.embeddings"
    if config.embeddings == "shared":
        others = (SOURCE_EMBEDDING, TARGET_EMBEDDING, OUTPUT)
        yield Copy(tokens, (SHARED,), target, others)
        return
    yield Copy("source_embedding.embeddings", (SOURCE_EMBEDDING,), source)
    if config.embeddings == "tied":
        yield Copy(tokens, (TARGET_EMBEDDING,), target, (OUTPUT,))
    else:
        yield Copy(tokens, (TARGET_EMBEDDING,), target)
        yield Copy("output_projection.kernel", (OUTPUT,), target)


def _check_positions(path: Path, name: str, table: np.ndarray, config: TransformerConfig) -> None:
    fits = table.ndim == 2 and table.shape[1] == config.d_model
    if fits:
        ours = sinusoidal_positions(len(table), config.d_model, "halves")
        fits = bool((np.abs(table - ours) <= POSITION_TOLERANCE).all())
    if not fits:
        raise ValueError(
            f"{path}: {name} must be Marian's sinusoidal positions (all sines, then all cosines) "
            f"of {config.d_model} columns: learned ones are not supported. "
            f"Received: shape={table.shape}"
        )


def _read_safetensors(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError(f"{path}: safetensors is needed. {install_hint('train')}") from error
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: is damaged. {COPY_AGAIN} ({error})") from error
    except (AttributeError, TypeError) as error:  # NumPy does not know the type, such as float8
        raise ValueError(
            f"{path}: must hold floats of 16, 32 or 64 bits. Save the checkpoint so. ({error})"
        ) from error


def _read_torch(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path}: PyTorch is needed to read this file; model.safetensors, where the checkpoint "
            f"has it, can be read without. {install_hint('references')}"
        ) from error
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds
        raise ValueError(
            f"{path}: is damaged, or holds more than tensors. {COPY_AGAIN} ({type(error).__name__})"
        ) from None  # PyTorch's advice, to trust the file, is kept out of the traceback too
    found = _odd(tensors, torch.Tensor)
    if found is not None:
        raise ValueError(
            f"{path}: must hold tensors by name, as torch.save(model.state_dict()) writes them. "
            f"Received: {found}"
        )
    for name, tensor in tensors.items():
        values = tensor.detach()
        try:
            yield name, (values.float() if values.is_floating_point() else values).numpy()
        except (TypeError, RuntimeError):
            raise ValueError(
                f"{path}: {name} must be a dense tensor with values. Save the checkpoint so. "
                f"Received: {tensor.layout} on {tensor.device}"
            ) from None


def _odd(tensors: Any, kind: type) -> str | None:
    """Say what keeps the content of a file from being tensors by name; None: nothing does."""
    if not isinstance(tensors, dict):
        return f"a {type(tensors).__name__}"
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            return f"the name {name!r}"
        if not isinstance(tensor, kind):
            return f"{name!r} is a {type(tensor).__name__}"
    return None


def _float32(path: Path, name: str, array: Any) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name != "bfloat16":
        raise ValueError(f"{path}: {name} must hold floats. Received: dtype={array.dtype}")
    return np.asarray(array, "float32")


def _some(names: Iterable[str]) -> str:
    """Show the first few names and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:SHOWN]) or "none"
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown

"""What PyTorch computes, kept in small files, so that ours is held to it where torch is absent.

With torch installed, this writes the files anew:

    python tests/references/torch_goldens.py
"""

import warnings
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
SIZES = {
    "d_model": 16,
    "nhead": 4,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "dim_feedforward": 24,
}
# The whole torch.nn.Transformer: what is said to it besides the sizes.
TRANSFORMERS = {
    "torch_post_norm": {"norm_first": False, "activation": "relu"},
    "torch_pre_norm": {"norm_first": True, "activation": "gelu"},
}
ATTENTION = "torch_attention"
FILES = (*TRANSFORMERS, ATTENTION)
LENGTHS = (5, 2, 7), (4, 6, 1)  # of the sources and the targets; the rest of a row is padding


def load(name):
    """The arrays of a file, by name."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def make(name):
    """The same arrays as torch computes them now; weights and inputs are NumPy's, by one seed."""
    if name == ATTENTION:
        return attention_arrays()
    torch_model = torch_transformer(**SIZES, **TRANSFORMERS[name])
    inputs = vectors(*LENGTHS, SIZES["d_model"])
    memory, output = torch_outputs(torch_model, *inputs)
    names = ("source", "source_mask", "target", "target_mask", "memory", "output")
    return weights_of(torch_model) | dict(zip(names, (*inputs, memory, output), strict=True))


def state_dict(arrays):
    """The part of a file that is the state dict of the torch module."""
    return {n.removeprefix("weights/"): a for n, a in arrays.items() if n.startswith("weights/")}


def weights_of(torch_module):
    return {f"weights/{name}": value.numpy() for name, value in torch_module.state_dict().items()}


def torch_transformer(seed=0, **options):
    """A `torch.nn.Transformer` in which no weight is 0 or 1, and no dropout happens."""
    import torch

    with warnings.catch_warnings():  # pre-norm and odd heads lack a fast path, and torch says so
        warnings.filterwarnings("ignore", "enable_nested_tensor is True", UserWarning)
        module = torch.nn.Transformer(**options, batch_first=True).eval()
    generator = np.random.default_rng(seed)
    for name, value in module.named_parameters():
        # norms near 1, all others of the size that keeps the variance of a sum
        spread, mean = (0.3, 0) if value.ndim == 1 else (value.shape[1] ** -0.5, 0)
        if "norm" in name and name.endswith("weight"):
            mean = 1
        noise = generator.normal(mean, spread, tuple(value.shape)).astype("float32")
        value.data.copy_(torch.from_numpy(noise))
    return module


def vectors(source_lengths, target_lengths, d_model, seed=1):
    """Random sources and targets `[B, length, D]`, each with its mask, True = real."""
    generator = np.random.default_rng(seed)
    found = []
    for lengths in (source_lengths, target_lengths):
        shape = (len(lengths), max(lengths), d_model)
        found.append(generator.normal(size=shape).astype("float32"))
        found.append(np.arange(max(lengths)) < np.reshape(lengths, (-1, 1)))
    return found


def torch_outputs(torch_model, source, source_mask, target, target_mask):
    """Memory and output of a `torch.nn.Transformer`, which masks where ours attends."""
    import torch

    source, source_pads, target, target_pads = (
        torch.from_numpy(array) for array in (source, ~source_mask, target, ~target_mask)
    )
    future = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
    memory = torch_model.encoder(source, src_key_padding_mask=source_pads)
    output = torch_model.decoder(
        target,
        memory,
        tgt_mask=future,
        tgt_key_padding_mask=target_pads,
        memory_key_padding_mask=source_pads,
    )
    return memory.detach().numpy(), output.detach().numpy()


def attention_arrays():
    """One call of `scaled_dot_product_attention`: 2 sentences, 3 heads of 4, values of 5."""
    generator = np.random.default_rng(2)
    shapes = {"query": (2, 3, 4, 4), "key": (2, 3, 6, 4), "value": (2, 3, 6, 5)}
    arrays = {n: generator.normal(size=shape).astype("float32") for n, shape in shapes.items()}
    arrays["mask"] = generator.random((2, 4, 6)) < 0.6
    arrays["mask"][..., 0] = True
    return arrays | {"output": torch_attention(*arrays.values())}


def torch_attention(query, key, value, mask=None):
    """`scaled_dot_product_attention` of heads `[B, N, length, H]`; mask `[B, T, S]`."""
    import torch

    heads = [torch.from_numpy(np.asarray(x, "float32")) for x in (query, key, value)]
    mask = None if mask is None else torch.from_numpy(np.ascontiguousarray(mask))[:, None]
    return torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask).numpy()


if __name__ == "__main__":
    for file in FILES:
        np.savez_compressed(FOLDER / f"{file}.npz", **make(file))
        print(f"{file}.npz: {(FOLDER / f'{file}.npz').stat().st_size:,} bytes")

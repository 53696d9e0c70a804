"""The weights of a `torch.nn.Transformer`, copied into a `Transformer`."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.layers.similarity import ScaledDot
from keras_transformer.model import Transformer

SHOWN = 3  # names in an error message
FIRST = "encoder.layers.0.self_attn.in_proj_weight"


class Copy(NamedTuple):
    """A variable of ours and the torch tensor it comes from; theirs are `[outputs, inputs]`."""

    variable: Any
    name: str
    shape: tuple[int, ...]  # of the whole torch tensor
    rows: slice = slice(None)  # the part of it that is ours


def from_torch(state_dict: Mapping[str, Any], model: Transformer, prefix: str = "") -> None:
    """Copy the weights of a `torch.nn.Transformer` into the encoder and decoder of a model.

    Both then compute the same from the same vectors. torch's module has no embeddings, so those
    of the model stay as they are. PyTorch need not be installed when the values are NumPy arrays.

    torch always has a normalisation behind each stack: make the model with
    `TransformerConfig(final_norm=True)`. A state dict does not say everything. `num_heads`,
    `norm_first`, `activation` and `layer_norm_epsilon` (1e-5 in torch, as here) cannot be checked
    and must be those of the torch module.

    A module made with `bias=False` has no biases at all: the model's become zero, and training
    may move them. Everything is checked before the first weight is changed.

    Args:
        state_dict: names and values (tensors or arrays) as from `torch_module.state_dict()`.
        model: a `Transformer` with the same sizes, `similarity="scaled_dot"` and heads of
            d_model / num_heads.
        prefix: where the `torch.nn.Transformer` is inside a larger module: `"transformer"` for
            names such as 'transformer.encoder.norm.weight'. Names elsewhere are left alone.

    Raises:
        ValueError: a model of another architecture, or missing, unknown or misshapen weights.

    Example, where torch is installed::

        theirs = torch.nn.Transformer(
            d_model=128, nhead=4, num_encoder_layers=4, num_decoder_layers=4, dim_feedforward=256
        )
        config = TransformerConfig.preset(
            "tiny", source_vocab_size=100, target_vocab_size=80, final_norm=True
        )
        ours = Transformer(config)
        from_torch(theirs.state_dict(), ours)
    """
    if not isinstance(model, Transformer):
        raise ValueError(
            f"model must be a keras_transformer.Transformer. Received: model={model!r}"
        )
    check_textbook_attention(model, "torch.nn.Transformer")
    shapes = _below(prefix, state_dict)
    _check_sizes(shapes, model)
    copies = list(_copies(model))
    has_biases = any(name.endswith("bias") for name in shapes)
    needed = {c.name: c.shape for c in copies if has_biases or not c.name.endswith("bias")}
    _check_names(shapes, needed)
    arrays = {name: _array(name, shapes[name]) for name in needed}
    _check_shapes(arrays, needed, model)
    for copy in copies:
        if copy.name in arrays:
            copy.variable.assign(arrays[copy.name][copy.rows].T)
        else:
            copy.variable.assign(np.zeros(copy.variable.shape, "float32"))


def check_textbook_attention(model: Transformer, other: str) -> None:
    """Refuse a model whose attention `other`, which has only that of the paper, cannot compute.

    Raises:
        ValueError: rotary positions, heads of another size than d_model / num_heads, or another
            similarity than `ScaledDot`.
    """
    config = model.config
    if config.positions == "rotary":
        raise ValueError(
            f"positions must be sinusoidal or learned: {other} does not turn queries and keys. "
            "Received: positions='rotary'"
        )
    for name, size in (("key_dim", config.key_size), ("value_dim", config.value_size)):
        if size * config.num_heads != config.d_model:
            raise ValueError(
                f"{name} must be d_model / num_heads, as in {other}: leave it None. "
                f"Received: {name}={size}, d_model={config.d_model}, num_heads={config.num_heads}"
            )
    attentions = [layer.self_attention for layer in (*model.encoder.layers, *model.decoder.layers)]
    attentions += [layer.cross_attention for layer in model.decoder.layers]
    if any(type(attention.similarity) is not ScaledDot for attention in attentions):
        raise ValueError(
            f"similarity must be 'scaled_dot', the only one of {other}. "
            f"Received: similarity={config.similarity!r}"
        )


def _below(prefix: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries whose names begin with `prefix`, without it."""
    is_mapping = isinstance(state_dict, Mapping)
    odd = [name for name in state_dict if not isinstance(name, str)] if is_mapping else []
    if not is_mapping or odd:
        found = f"the name {odd[0]!r}" if odd else type(state_dict).__name__
        raise ValueError(
            "state_dict must hold names and values, as from torch_module.state_dict(). "
            f"Received: {found}"
        )
    if not isinstance(prefix, str):
        raise ValueError(f"prefix must be a string. Received: prefix={prefix!r}")
    start = f"{prefix.rstrip('.')}." if prefix else ""
    found = {n.removeprefix(start): v for n, v in state_dict.items() if n.startswith(start)}
    if FIRST not in found:
        deeper = [
            name.removesuffix(FIRST).rstrip(".") for name in state_dict if name.endswith(FIRST)
        ]
        hint = f" Use prefix={deeper[0]!r}." if deeper else ""
        raise ValueError(
            f"state_dict must be that of a torch.nn.Transformer and have {start + FIRST!r}.{hint} "
            f"Received: prefix={prefix!r} and {len(state_dict)} names, {_some(state_dict)}"
        )
    return found


def _check_sizes(values: dict[str, Any], model: Transformer) -> None:
    """Compare the numbers of layers and the final norms, whose names would be many."""
    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        matches = (re.match(rf"{side}\.layers\.(\d+)\.", name) for name in values)
        theirs = len({match[1] for match in matches if match})
        if theirs != stack.num_layers:
            raise ValueError(
                f"num_{side}_layers of the model must be that of state_dict. Make the model with "
                f"TransformerConfig(num_{side}_layers={theirs}). "
                f"Received: num_{side}_layers={stack.num_layers}"
            )
        has_norm = f"{side}.norm.weight" in values
        if has_norm != (stack.norm is not None):
            raise ValueError(
                f"final_norm must be {has_norm}: state_dict has {'a' if has_norm else 'no'} "
                f"'{side}.norm.weight'. Make the model with TransformerConfig(final_norm="
                f"{has_norm}). Received: final_norm={not has_norm}"
            )


def _copies(model: Transformer) -> Iterator[Copy]:
    """Yield every variable of the encoder and the decoder with its place in torch."""
    d, f = model.config.d_model, model.config.d_ff

    def norm(layer: Any, name: str) -> Iterator[Copy]:
        yield Copy(layer.gamma, f"{name}.weight", (d,))
        yield Copy(layer.beta, f"{name}.bias", (d,))

    def dense(layer: Any, name: str, outputs: int, inputs: int) -> Iterator[Copy]:
        yield Copy(layer.kernel, f"{name}.weight", (outputs, inputs))
        yield Copy(layer.bias, f"{name}.bias", (outputs,))

    def attention(layer: Any, name: str, parts: list[tuple[Any, slice]]) -> Iterator[Copy]:
        for part, rows in parts:  # queries, keys and values are the rows of one matrix
            yield Copy(part.kernel, f"{name}.in_proj_weight", (3 * d, d), rows)
            yield Copy(part.bias, f"{name}.in_proj_bias", (3 * d,), rows)
        yield from dense(layer.output_projection, f"{name}.out_proj", d, d)

    for side, stack in (("encoder", model.encoder), ("decoder", model.decoder)):
        for index, layer in enumerate(stack.layers):
            name = f"{side}.layers.{index}"
            own = layer.self_attention
            yield from attention(own, f"{name}.self_attn", [(own.input_projection, slice(None))])
            norms = [layer.self_attention_norm, layer.feed_forward_norm]
            if side == "decoder":
                cross = layer.cross_attention
                parts = [
                    (cross.query_projection, slice(d)),
                    (cross.memory_projection, slice(d, None)),
                ]
                yield from attention(cross, f"{name}.multihead_attn", parts)
                norms.insert(1, layer.cross_attention_norm)
            yield from dense(layer.feed_forward.inner, f"{name}.linear1", f, d)
            yield from dense(layer.feed_forward.outer, f"{name}.linear2", d, f)
            for number, one in enumerate(norms, 1):
                yield from norm(one, f"{name}.norm{number}")
        if stack.norm is not None:
            yield from norm(stack.norm, f"{side}.norm")


def _check_names(values: Iterable[str], needed: Iterable[str]) -> None:
    """Refuse missing and unknown names, each with the nearest of the others."""
    missing = [name for name in needed if name not in values]
    unknown = [name for name in values if name not in needed]
    if missing or unknown:
        nearest = {
            name: match
            for name in missing[:SHOWN]
            for match in difflib.get_close_matches(name, unknown, n=1)
        }
        hint = "".join(f" {name!r} may be {match!r}." for name, match in nearest.items())
        raise ValueError(
            "state_dict must have the names of a torch.nn.Transformer of this size, no fewer and "
            f"no more; biases all or none.{hint} "
            f"Received: missing {_some(missing)}; unknown {_some(unknown)}"
        )


def _check_shapes(
    arrays: dict[str, Any], needed: dict[str, tuple[int, ...]], model: Transformer
) -> None:
    wrong = [name for name, shape in needed.items() if arrays[name].shape != shape]
    if wrong:
        name, config = wrong[0], model.config
        raise ValueError(
            f"state_dict[{name!r}] must have the shape {needed[name]}, as the model has "
            f"d_model={config.d_model} and d_ff={config.d_ff}. "
            f"Received: shape={arrays[name].shape}; {len(wrong)} of {len(needed)} do not fit"
        )


def _array(name: str, value: Any) -> Any:
    """Return a tensor (of any device and precision) or an array as a NumPy array of floats."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            is_small = value.is_floating_point() and value.dtype.itemsize < 4
            value = (value.float() if is_small else value).numpy()  # NumPy has no bfloat16
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"state_dict[{name!r}] must be a dense tensor or array. "
            f"Received: {type(value).__name__} ({error})"
        ) from None
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"state_dict[{name!r}] must hold floats. Received: {type(value).__name__} of "
            f"{array.dtype}"
        )
    return array if array.dtype == "float64" else array.astype("float32", copy=False)


def _some(names: Iterable[str]) -> str:
    """Show the first few names and how many more there are."""
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:SHOWN]) or "none"
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown

"""A Keras `Transformer` written as a CTranslate2 model: the same weights for another engine.

Tokens are ids as text ("17"), so that ids go in and ids come out:

    python benchmarks/ctranslate2_model.py runs/multi30k ctranslate2_model
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.bridges.torch_transformer import check_textbook_attention
from keras_transformer.layers.positional import sinusoidal_positions
from keras_transformer.model import Transformer
from keras_transformer.translator import Translator

MOST_POSITIONS = 2048  # CTranslate2 keeps sinusoids as a table


def main() -> None:
    """Convert the best model of a run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a training run")
    parser.add_argument("folder", type=Path, help="where to put the model; new")
    options = parser.parse_args()
    try:
        write_ctranslate2(Translator.load(options.run).model, options.folder)
    except ValueError as error:
        sys.exit(str(error))


def write_ctranslate2(model: Transformer, folder: Path) -> None:
    """Write the model as a CTranslate2 folder, in float32.

    CTranslate2 makes int8 of it while loading. It does not know the ids that our search never
    outputs: hand it `suppress_sequences=[[str(i)] for i in model.config.banned_ids]`. For a source
    of the end symbol alone, our empty text, it decodes nothing.

    Args:
        model: post-norm or pre-norm, with or without final norm, sinusoidal or learned positions,
            any choice of embeddings and activation.
        folder: where to write; made where missing.

    Raises:
        ValueError: something CTranslate2 does not compute, or the folder holds a model already.
    """
    from ctranslate2.specs import TransformerSpec, common_spec

    check_textbook_attention(model, "CTranslate2")
    if (folder / "model.bin").exists():
        raise ValueError(
            f"folder must hold no model yet. Choose another one. Received: folder={folder}"
        )
    config = model.config
    final_norm = model.encoder.norm is not None
    activations = {
        "relu": common_spec.Activation.RELU,
        "gelu": common_spec.Activation.GELU,
        "silu": common_spec.Activation.SWISH,
    }
    spec = TransformerSpec.from_config(
        (config.num_encoder_layers, config.num_decoder_layers),
        config.num_heads,
        pre_norm=config.norm_first or final_norm,  # gives a post-norm stack its final norm too
        no_final_norm=not final_norm,
        activation=activations[config.activation],
    )
    spec.encoder.pre_norm = spec.decoder.pre_norm = config.norm_first
    _copy_ends(model, spec)
    _copy_stack(model.encoder, spec.encoder)
    _copy_stack(model.decoder, spec.decoder)
    _set_tokens(config, spec)
    spec.validate()
    spec.optimize(quantization=None)  # a tied table is stored once
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def _copy_ends(model: Transformer, spec: Any) -> None:
    """Copy what stands before the first layers and behind the last."""
    config = model.config
    tables = (model.source_embedding, model.token_embedding)
    positions = (model.source_positions, model.target_positions)
    places = (spec.encoder.embeddings[0], spec.decoder.embeddings)
    for side, place, table, position in zip(
        (spec.encoder, spec.decoder), places, tables, positions, strict=True
    ):
        place.weight = _array(table.embeddings)
        side.scale_embeddings = config.embedding_scale
        side.position_encodings.encodings = _position_table(config, position)
    if model.output_projection is None:
        spec.decoder.projection.weight = _array(model.token_embedding.embeddings)
    else:
        spec.decoder.projection.weight = _array(model.output_projection.kernel, transpose=True)
    if config.output_bias:
        spec.decoder.projection.bias = _array(model.output_bias)


def _position_table(config: Any, layer: Any) -> np.ndarray:
    if config.positions == "learned":
        return _array(layer.embeddings)
    return sinusoidal_positions(MOST_POSITIONS, config.d_model, config.position_layout)


def _copy_stack(stack: Any, spec: Any) -> None:
    """Copy an encoder or a decoder, layer by layer."""
    for layer, place in zip(stack.layers, spec.layer, strict=True):
        own = layer.self_attention
        _copy_attention(
            place.self_attention,
            layer.self_attention_norm,
            (own.input_projection, own.output_projection),
        )
        if hasattr(layer, "cross_attention"):
            cross = layer.cross_attention
            _copy_attention(
                place.attention,
                layer.cross_attention_norm,
                (cross.query_projection, cross.memory_projection, cross.output_projection),
            )
        _copy_norm(place.ffn.layer_norm, layer.feed_forward_norm)
        _copy_dense(place.ffn.linear_0, layer.feed_forward.inner)
        _copy_dense(place.ffn.linear_1, layer.feed_forward.outer)
    if stack.norm is not None:
        _copy_norm(spec.layer_norm, stack.norm)


def _copy_attention(place: Any, norm: Any, projections: tuple[Any, ...]) -> None:
    _copy_norm(place.layer_norm, norm)
    for linear, dense in zip(place.linear, projections, strict=True):
        _copy_dense(linear, dense)


def _copy_norm(place: Any, norm: Any) -> None:
    place.gamma, place.beta = _array(norm.gamma), _array(norm.beta)


def _copy_dense(place: Any, dense: Any) -> None:
    place.weight, place.bias = _array(dense.kernel, transpose=True), _array(dense.bias)


def _array(variable: Any, transpose: bool = False) -> np.ndarray:
    array = np.array(variable, "float32")
    return np.ascontiguousarray(array.T) if transpose else array


def _set_tokens(config: Any, spec: Any) -> None:
    """Name every id by its number, and say which ones are special."""
    spec.register_source_vocabulary([str(i) for i in range(config.source_vocab_size)])
    spec.register_target_vocabulary([str(i) for i in range(config.target_vocab_size)])
    spec.config.unk_token = str(config.unk_id)
    spec.config.bos_token = str(config.bos_id)
    spec.config.eos_token = str(config.eos_id)
    spec.config.decoder_start_token = str(config.start_id)
    spec.config.add_source_bos = spec.config.add_source_eos = False
    spec.config.layer_norm_epsilon = config.layer_norm_epsilon


if __name__ == "__main__":
    main()

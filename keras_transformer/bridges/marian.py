"""The weights and tokenizers of a Marian checkpoint (OPUS-MT), as a `Translator`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_transformer.bridges.marian_tokenizers import read_json, read_tokenizers
from keras_transformer.bridges.marian_weights import assign, check_weights, read_weights
from keras_transformer.config import Activation, Embeddings, TransformerConfig
from keras_transformer.model import Transformer
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.translator import Translator

ACTIVATIONS: dict[str, Activation] = {
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
}
# What a config.json may say of models that are not like Marian's; only this value is supported.
FIXED = {
    "is_encoder_decoder": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
}


def from_marian(folder: str | Path) -> Translator:
    """Return the `Translator` of a Marian checkpoint on disk, such as those of OPUS-MT.

    The folder is one that Hugging Face's `MarianMTModel` and `MarianTokenizer` (Junczys-Dowmunt et
    al. 2018, Tiedemann and Thottingal 2020) load: `config.json`, `vocab.json`, `source.spm`,
    `target.spm` and `model.safetensors`, or `pytorch_model.bin` where PyTorch is installed.
    Nothing is downloaded. What comes back translates, scores, trains with `model.fit` and is
    exported like any other model here.

    Logits and ids are those of transformers. Text that MarianTokenizer treats in another way:

    - '</s>', '<unk>' and '<pad>' inside a text are text here, not special ids.
    - A language code (`>>fra<< Good morning`) is one behind any space, not only at the start of
      the text. A space must follow it: without one, the next word is cut as if it went on from
      the code. One that the model does not have is text here; there it is the unknown id.
    - Unknown ids of an output are written as SentencePiece writes them, " ⁇ ", and spaces at its
      ends stay; `batch_decode(skip_special_tokens=True)` drops both.
    - Scores of pieces are rounded to 1/1024, so that the tokenizer, the SavedModel and the ONNX
      file agree on equally good segmentations; transformers may choose another of them.
    - OPUS-MT's training data had its punctuation normalised (Moses). Neither MarianTokenizer's
      call nor this does so: for text with typographic quotes, doing it before may help.

    Args:
        folder: of the checkpoint.

    Raises:
        ValueError: a file is missing or damaged, an unsupported setting, ids that contradict each
            other, or weights with missing, unknown or misshapen names; the file is named.
        ImportError: `pytorch_model.bin` without PyTorch, or safetensors is not installed.

    Example, with a checkpoint in the folder opus-mt-en-de::

        translator = kt.bridges.from_marian("opus-mt-en-de")
        translator.translate(["Good morning."])[0][0].text     # 'Guten Morgen.'
        kt.export(translator, "exported")
    """
    folder = Path(folder)
    path = folder / "config.json"
    settings = read_json(path) | _generation_settings(folder)
    _check_supported(path, settings)
    source, target = read_tokenizers(folder)
    if source.pad_id != target.pad_id:
        raise ValueError(
            f"{folder}: both vocabularies must have '<pad>' at the same id: other models are not "
            f"supported. Received: {source.pad_id} and {target.pad_id}"
        )
    try:
        config = _architecture(settings, target)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _check_ids(path, config, source, target)
    file, arrays = read_weights(folder)
    check_weights(file, arrays, config)
    model = Transformer(config, name="transformer")
    assign(model, arrays)
    return Translator(model, source, target)


def _generation_settings(folder: Path) -> dict[str, Any]:
    """Return the start id, which newer folders may keep apart from config.json."""
    path = folder / "generation_config.json"
    settings = read_json(path) if path.exists() else {}
    name = "decoder_start_token_id"
    return {name: settings[name]} if settings.get(name) is not None else {}


def _check_supported(path: Path, settings: Mapping[str, Any]) -> None:
    if settings.get("model_type") != "marian":
        raise ValueError(
            f"{path}: model_type must be 'marian'. Use the folder of a Marian checkpoint. "
            f"Received: model_type={settings.get('model_type')!r}"
        )
    for name, supported in FIXED.items():
        if settings.get(name, supported) != supported:
            raise ValueError(
                f"{path}: {name} must be {supported}: other models are not supported. "
                f"Received: {name}={settings[name]!r}"
            )
    activation = settings.get("activation_function", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"{path}: activation_function must be one of {', '.join(ACTIVATIONS)}. "
            f"Received: activation_function={activation!r}"
        )


def _architecture(settings: Mapping[str, Any], target: Tokenizer) -> TransformerConfig:
    """Translate the settings of a config.json; what is left out is as in transformers."""
    size = _count(settings, "vocab_size")
    shared = settings.get("share_encoder_decoder_embeddings", True)
    pad_id = _count(settings, "pad_token_id")
    return TransformerConfig(
        source_vocab_size=size,
        target_vocab_size=size if shared else settings.get("decoder_vocab_size") or size,
        num_encoder_layers=_count(settings, "encoder_layers"),
        num_decoder_layers=_count(settings, "decoder_layers"),
        d_model=_count(settings, "d_model"),
        d_ff=_same(settings, "ffn_dim"),
        num_heads=_same(settings, "attention_heads"),
        activation=ACTIVATIONS[settings.get("activation_function", "gelu")],
        position_layout="halves",
        embeddings=_embeddings(shared, settings.get("tie_word_embeddings", True)),
        output_bias=True,
        embedding_scale=settings.get("scale_embedding", False),
        dropout=settings.get("dropout", 0.1),
        attention_dropout=settings.get("attention_dropout", 0.0),
        feed_forward_dropout=settings.get("activation_dropout", 0.0),
        pad_id=pad_id,
        unk_id=target.unk_id,
        bos_id=target.bos_id,
        eos_id=_count(settings, "eos_token_id"),
        decoder_start_id=settings.get("decoder_start_token_id", pad_id),
    )


def _count(settings: Mapping[str, Any], name: str) -> int:
    value = settings.get(name)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} must be an integer from 0. Received: {name}={value!r}")
    return value


def _same(settings: Mapping[str, Any], name: str) -> int:
    """Return a size that encoder and decoder must share."""
    encoder, decoder = (_count(settings, f"{side}_{name}") for side in ("encoder", "decoder"))
    if encoder != decoder:
        raise ValueError(
            f"encoder_{name} and decoder_{name} must be equal: other models are not supported. "
            f"Received: encoder_{name}={encoder}, decoder_{name}={decoder}"
        )
    return encoder


def _embeddings(shared: bool, tied: bool) -> Embeddings:
    if shared and not tied:
        raise ValueError(
            "tie_word_embeddings must be True where share_encoder_decoder_embeddings is. Received: "
            f"share_encoder_decoder_embeddings={shared}, tie_word_embeddings={tied}"
        )
    if shared:
        return "shared"
    return "tied" if tied else "separate"


def _check_ids(path: Path, config: TransformerConfig, source: Tokenizer, target: Tokenizer) -> None:
    """Hold config.json to the vocabularies."""
    for side, tokenizer in (("source", source), ("target", target)):
        size = getattr(config, f"{side}_vocab_size")
        if tokenizer.vocab_size != size:
            raise ValueError(
                f"{path}: vocab_size must be the number of pieces of the {side} vocabulary "
                f"(vocab.json). Received: vocab_size={size}, {tokenizer.vocab_size} pieces"
            )
        for piece, name in (("</s>", "eos_id"), ("<unk>", "unk_id"), ("<pad>", "pad_id")):
            ours, theirs = getattr(config, name), getattr(tokenizer, name)
            if ours != theirs:
                raise ValueError(
                    f"{path}: the {side} vocabulary must have {piece!r} at {ours}. "
                    f"Received: {name}={theirs}"
                )

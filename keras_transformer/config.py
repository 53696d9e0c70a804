"""Validated settings: the base of all of them, and the architecture of a model."""

from __future__ import annotations

import difflib
from typing import Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from keras_transformer import backend

SIMILARITY_NAMES = (
    "scaled_dot", "dot", "general", "additive", "concat", "linear_concat", "cosine",
)  # fmt: skip
Positions = Literal["sinusoidal", "learned", "rotary"]
PositionLayout = Literal["interleaved", "halves"]
Embeddings = Literal["shared", "tied", "separate"]
Activation = Literal["relu", "gelu", "silu"]

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 4, "d_model": 128, "d_ff": 256, "num_heads": 4},
    "small": {"num_layers": 6, "d_model": 512, "d_ff": 1024, "num_heads": 4},
    "base": {"num_layers": 6, "d_model": 512, "d_ff": 2048, "num_heads": 8},
    "big": {"num_layers": 6, "d_model": 1024, "d_ff": 4096, "num_heads": 16},
}


def nearest(name: str, known: list[str]) -> str:
    """Return ' Did you mean ...?' for the known name closest to `name`, or ''."""
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


class Settings(BaseModel):
    """A frozen model that refuses unknown keys and reports every fault in one `ValueError`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            faults = "\n".join(_explain(type(self), fault) for fault in error.errors())
            raise ValueError(faults) from None

    @field_validator("*", mode="before")
    @classmethod
    def _a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where a number is wanted: Python would take them for 1 and 0."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = (annotation, *get_args(annotation))
        if isinstance(value, bool) and bool not in kinds and (int in kinds or float in kinds):
            raise PydanticCustomError("number", "Input should be a number")
        return value


def _explain(model: type[BaseModel], fault: Any) -> str:
    """Say one pydantic fault in the house form, with the nearest name for an unknown key."""
    where = ".".join(str(part) for part in fault["loc"]) or model.__name__
    if fault["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        hint = nearest(where, known) or f" Choose from {', '.join(known)}."
        return f"{where}: unknown setting.{hint} Received: {where}={fault['input']!r}"
    if fault["type"] == "missing":
        return f"{where}: is required, give it a value."
    message = fault["msg"].removeprefix("Value error, ")
    if not fault["loc"]:
        return message
    if fault["type"] == "value_error":  # a section has already explained its own faults
        return within(where, message)
    return f"{where}: {message}. Received: {where}={fault['input']!r}"


def within(section: str, message: str) -> str:
    """Put the section's name in front of each line, where it is not there yet."""
    return "\n".join(
        line if line.startswith((f"{section}.", f"{section}:")) else f"{section}.{line}"
        for line in message.splitlines()
    )


class SequenceConfig(Settings):
    """What search and translators know of a model: its vocabularies and their special ids."""

    source_vocab_size: int = Field(ge=5)
    target_vocab_size: int = Field(ge=5)
    pad_id: int = Field(default=0, ge=0)
    unk_id: int = Field(default=1, ge=0)
    bos_id: int = Field(default=2, ge=0)
    eos_id: int = Field(default=3, ge=0)
    decoder_start_id: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _ids_fit(self) -> Self:
        if self.pad_id == self.eos_id:
            raise ValueError(
                "pad_id and eos_id must differ, or the end of a text could not be told from "
                f"padding. Received: pad_id={self.pad_id}, eos_id={self.eos_id}"
            )
        if self.pad_id == self.unk_id:
            raise ValueError(
                "pad_id and unk_id must differ, or unknown tokens would be masked as padding. "
                f"Received: pad_id={self.pad_id}, unk_id={self.unk_id}"
            )
        smallest = min(self.source_vocab_size, self.target_vocab_size)
        for name in ("pad_id", "unk_id", "bos_id", "eos_id", "decoder_start_id"):
            value = getattr(self, name)
            if value is not None and value >= smallest:
                raise ValueError(
                    f"{name} must be inside both vocabularies, below {smallest}. "
                    f"Received: {name}={value}"
                )
        return self

    @staticmethod
    def tokenizer_fields(source: Any, target: Any) -> dict[str, Any]:
        """Return the fields that two tokenizers settle: vocabulary sizes and special ids."""
        if any(getattr(source, i) != getattr(target, i) for i in ("pad_id", "eos_id")):
            raise ValueError(
                "source and target tokenizers must agree on pad_id and eos_id. "
                f"Received: source pad {source.pad_id}, eos {source.eos_id}; "
                f"target pad {target.pad_id}, eos {target.eos_id}"
            )
        return {
            "source_vocab_size": source.vocab_size,
            "target_vocab_size": target.vocab_size,
            "pad_id": target.pad_id,
            "unk_id": target.unk_id,
            "bos_id": target.bos_id,
            "eos_id": target.eos_id,
        }

    @property
    def start_id(self) -> int:
        """The id that starts decoding: `decoder_start_id`, or `bos_id` when that is None."""
        return self.bos_id if self.decoder_start_id is None else self.decoder_start_id

    @property
    def banned_ids(self) -> tuple[int, ...]:
        """Tokens that decoding never outputs: the pad and the start, unless it also ends."""
        return tuple(sorted({self.pad_id, self.start_id} - {self.eos_id}))

    @property
    def longest(self) -> int | None:
        """The most tokens of a source or a target, or None where any length is possible."""
        return None


class TransformerConfig(SequenceConfig):
    """Architecture of the encoder-decoder Transformer ('Attention Is All You Need', section 3).

    Sizes carry the paper's names. `key_dim` and `value_dim` are sizes per head and default to
    `d_model // num_heads`. `similarity` is a name (see `keras_transformer.layers`), the
    registered name of a class of your own ('package>Class'), or a layer, of which every
    attention gets a copy. `final_norm=None` follows `norm_first`; `embedding_dropout=None`
    follows `dropout`. `embeddings` is `shared` (one matrix for source, target and output; both
    vocabularies must be one), `tied` (target and output) or `separate`. `positions` are
    `sinusoidal` or `learned` vectors added to the embeddings, or `rotary`: turned into the
    queries and keys of self-attention. `position_layout` is `interleaved` as in the paper (sine
    and cosine alternate) or `halves` (all sines, then all cosines). `max_positions` bounds the
    length for learned positions only.

    Raises:
        ValueError: a size out of range, an unknown key, or fields that contradict each other.

    Example:
        >>> TransformerConfig.preset("tiny", source_vocab_size=100, target_vocab_size=80).d_model
        128
    """

    num_encoder_layers: int = Field(default=6, ge=1)
    num_decoder_layers: int = Field(default=6, ge=1)
    d_model: int = Field(default=512, ge=2)
    d_ff: int = Field(default=2048, ge=1)
    num_heads: int = Field(default=8, ge=1)
    key_dim: int | None = Field(default=None, ge=1)
    value_dim: int | None = Field(default=None, ge=1)
    similarity: str | dict[str, Any] = "scaled_dot"
    norm_first: bool = False
    final_norm: bool | None = None
    layer_norm_epsilon: float = Field(default=1e-5, gt=0)
    activation: Activation = "relu"
    positions: Positions = "sinusoidal"
    position_layout: PositionLayout = "interleaved"
    max_positions: int = Field(default=512, ge=1)
    embeddings: Embeddings = "tied"
    output_bias: bool = False
    embedding_scale: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    feed_forward_dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_dropout: float | None = Field(default=None, ge=0, lt=1)

    @field_validator("similarity", mode="before")
    @classmethod
    def _similarity_as_text(cls, value: Any) -> Any:
        """Turn a layer into its serialized form."""
        return backend.as_config(value) if hasattr(value, "prepare_key") else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.d_model % 2 and self.positions == "sinusoidal":
            raise ValueError(
                "d_model must be even for sinusoidal positions (sines and cosines in pairs). "
                f"Received: d_model={self.d_model}"
            )
        if (self.key_dim is None or self.value_dim is None) and self.d_model % self.num_heads:
            raise ValueError(
                "d_model must be a multiple of num_heads, or give key_dim and value_dim. "
                f"Received: d_model={self.d_model}, num_heads={self.num_heads}"
            )
        if self.embeddings == "shared" and self.source_vocab_size != self.target_vocab_size:
            raise ValueError(
                "embeddings='shared' needs one vocabulary for both sides. Use embeddings='tied', "
                f"or one tokenizer. Received: source_vocab_size={self.source_vocab_size}, "
                f"target_vocab_size={self.target_vocab_size}"
            )
        similarity = self.similarity
        # whether a registered class exists, 'package>Class', is for Keras to say
        if (
            isinstance(similarity, str)
            and ">" not in similarity
            and similarity not in SIMILARITY_NAMES
        ):
            raise ValueError(
                f"similarity must be one of {', '.join(SIMILARITY_NAMES)}, the name of a "
                "registered class ('package>Class'), or a layer."
                f"{nearest(similarity, list(SIMILARITY_NAMES))} "
                f"Received: similarity={similarity!r}"
            )
        if self.positions == "rotary" and self.key_size % 2:
            raise ValueError(
                "positions='rotary' turn the components of queries and keys in pairs, so a head "
                "must have an even number of them. Change key_dim or num_heads. "
                f"Received: {self.key_size} components a head"
            )
        return self

    @classmethod
    def preset(cls, name: str, num_layers: int | None = None, **fields: Any) -> Self:
        """Return a published size (`tiny`, `small`, `base`, `big`), any field overridden.

        Args:
            name: preset; base and big are rows of the paper's Table 3.
            num_layers: sets both stacks; `num_encoder_layers` and `num_decoder_layers` win.
            **fields: any `TransformerConfig` field.

        Raises:
            ValueError: unknown preset, unknown field, or a contradiction.
        """
        if name not in PRESETS:
            hint = nearest(name, list(PRESETS)) or f" Choose from {', '.join(PRESETS)}."
            raise ValueError(f"preset: unknown name.{hint} Received: preset={name!r}")
        sizes: dict[str, Any] = dict(PRESETS[name])
        layers = sizes.pop("num_layers") if num_layers is None else num_layers
        if num_layers is not None:
            sizes.pop("num_layers", None)
        sizes |= {"num_encoder_layers": layers, "num_decoder_layers": layers}
        return cls(**(sizes | fields))

    @classmethod
    def for_tokenizers(cls, name: str, source: Any, target: Any, **fields: Any) -> Self:
        """Return a preset sized for two tokenizers, with their special ids.

        Embeddings are `shared` when both tokenizers are one, else `tied`.
        """
        sizes = cls.tokenizer_fields(source, target)
        sizes["embeddings"] = "shared" if source == target else "tied"
        return cls.preset(name, **(sizes | fields))

    @property
    def longest(self) -> int | None:
        """`max_positions` where positions are learned, else None."""
        return self.max_positions if self.positions == "learned" else None

    @property
    def key_size(self) -> int:
        """Size of one head's queries and keys."""
        return self.d_model // self.num_heads if self.key_dim is None else self.key_dim

    @property
    def value_size(self) -> int:
        """Size of one head's values."""
        return self.d_model // self.num_heads if self.value_dim is None else self.value_dim


class RNNSearchConfig(SequenceConfig):
    """Architecture of the recurrent encoder-decoder with attention (Bahdanau et al. 2015).

    Sizes default to the paper's (section A.2.3): `d_embedding` is its m, `hidden_size` its n (of
    each direction of the encoder, and of the decoder), `units` its n' (hidden layer of the
    alignment), `maxout_size` its l. The paper trains without `dropout`.

    Raises:
        ValueError: a size out of range, an unknown key, or ids that contradict each other.

    Example:
        >>> RNNSearchConfig(source_vocab_size=100, target_vocab_size=80).hidden_size
        1000
    """

    d_embedding: int = Field(default=620, ge=1)
    hidden_size: int = Field(default=1000, ge=1)
    units: int = Field(default=1000, ge=1)
    maxout_size: int = Field(default=500, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @classmethod
    def for_tokenizers(cls, source: Any, target: Any, **fields: Any) -> Self:
        """Return a config sized for two tokenizers, with their special ids."""
        return cls(**(cls.tokenizer_fields(source, target) | fields))

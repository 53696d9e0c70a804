"""Validated settings: the architecture, a whole run (a recipe), and their YAML form."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, cast

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

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


class DataConfig(Settings):
    """Where the sentence pairs come from, and which are kept.

    `kind`: `cmudict` (English words to phonemes), `reverse` (generated digits), `pairs` (a TSV
    file) or `parallel` (two files, line by line). Relative paths stand below `folder`. Without
    validation files, `validation_fraction` of the sources, chosen by a hash of their text, is
    held out (and `test_fraction` likewise).
    """

    kind: Literal["cmudict", "reverse", "pairs", "parallel"]
    folder: str | None = None
    pairs: str | None = None
    source: str | None = None
    target: str | None = None
    validation_pairs: str | None = None
    validation_source: str | None = None
    validation_target: str | None = None
    validation_fraction: float = Field(default=0.05, gt=0, lt=1)
    test_fraction: float = Field(default=0.0, ge=0, lt=1)
    max_source_length: int = Field(default=256, ge=1)
    max_target_length: int = Field(default=256, ge=1)
    overlong: Literal["skip", "cut"] = "skip"
    num_examples: int = Field(default=20_000, ge=10)
    max_digits: int = Field(default=12, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"pairs": ("pairs",), "parallel": ("source", "target")}.get(self.kind, ())
        for name in ("pairs", "source", "target"):
            if name in needed and getattr(self, name) is None:
                raise ValueError(f"data.{name} must name a file when kind is {self.kind!r}.")
            if name not in needed and getattr(self, name) is not None:
                raise ValueError(
                    f"data.{name} must be left out when kind is {self.kind!r}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        if (self.validation_source is None) != (self.validation_target is None):
            raise ValueError("data: give validation_source and validation_target together.")
        if self.validation_pairs is not None and self.validation_source is not None:
            raise ValueError("data: give validation_pairs or validation_source, not both.")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "data.validation_fraction and test_fraction must leave pairs to train on. "
                f"Received: validation_fraction={self.validation_fraction}, "
                f"test_fraction={self.test_fraction}"
            )
        return self


class TokenizerConfig(Settings):
    """One SentencePiece model, or two: a `target` section of its own makes the second."""

    model_type: Literal["unigram", "bpe", "char", "word"] = "bpe"
    vocab_size: int = Field(default=8000, ge=5)
    target_model_type: Literal["unigram", "bpe", "char", "word"] | None = None
    target_vocab_size: int | None = Field(default=None, ge=5)
    add_dummy_prefix: bool = True

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.target_model_type is None) != (self.target_vocab_size is None):
            raise ValueError(
                "tokenizer: give target_model_type and target_vocab_size together (two "
                "vocabularies), or neither (one shared vocabulary)."
            )
        return self

    @property
    def shared(self) -> bool:
        """Whether one model serves both sides."""
        return self.target_model_type is None


OF_TOKENIZERS = {
    "source_vocab_size", "target_vocab_size", "pad_id", "unk_id", "bos_id", "eos_id",
}  # fmt: skip


# What may differ from a model that training starts from: nothing that its weights depend on.
DROPOUTS = {"dropout", "attention_dropout", "feed_forward_dropout", "embedding_dropout"}


class ModelConfig(Settings):
    """A preset and the `TransformerConfig` fields that differ from it; or a model to start from.

    `start_from` is the folder of a training run or of a Marian checkpoint (OPUS-MT). Tokenizers,
    sizes and weights are then its own, and `overrides` may set dropout rates only. The run adds
    the `architecture` it found there, so that it can do without that folder later.
    """

    preset: Literal["tiny", "small", "base", "big"] = "tiny"
    overrides: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None
    architecture: dict[str, Any] | None = None

    @model_serializer(mode="wrap")
    def _what_counts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        idle = {"preset"} if self.start_from is not None else {"start_from", "architecture"}
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name not in idle}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.start_from is not None:
            self._check_start()
            return self
        if self.architecture is not None:
            raise ValueError("architecture is added by a run that has start_from. Leave it out.")
        for name in sorted(OF_TOKENIZERS & self.overrides.keys()):
            raise ValueError(
                f"overrides.{name} comes from the tokenizers. Leave it out. "
                f"Received: overrides.{name}={self.overrides[name]!r}"
            )
        sizes = {"source_vocab_size": 1000, "target_vocab_size": 1000}  # not known before training
        try:
            TransformerConfig.preset(self.preset, **(sizes | self.overrides))
        except ValueError as error:
            raise ValueError(within("overrides", str(error))) from None
        return self

    def _check_start(self) -> None:
        if "preset" in self.model_fields_set:
            raise ValueError(
                "preset must be left out beside start_from, which brings its own sizes. "
                f"Received: preset={self.preset!r}"
            )
        for name in sorted(self.overrides.keys() - DROPOUTS):
            raise ValueError(
                f"overrides.{name} must be left out beside start_from: its weights depend on it. "
                f"Only {', '.join(sorted(DROPOUTS))} may differ. "
                f"Received: overrides.{name}={self.overrides[name]!r}"
            )
        try:
            known = self.architecture or {"source_vocab_size": 1000, "target_vocab_size": 1000}
            TransformerConfig(**(known | self.overrides))
        except ValueError as error:
            section = "overrides" if self.architecture is None else "architecture"
            raise ValueError(within(section, str(error))) from None


class TrainingConfig(Settings):
    """Everything `model.fit` is given (paper, section 5), and when it ends.

    `evaluate_every` steps make one epoch of `fit`: then the validation set is scored, a
    checkpoint written and the line on screen closed. Training ends at `max_steps` or after
    `max_minutes` of wall time, whichever comes first. `schedule` is `inverse_square_root`
    (section 5.3), `cosine` (warm-up, then down to zero at the end of the steps or of the time,
    whichever runs out first) or `constant`.
    """

    batch_tokens: int = Field(default=4096, ge=1)
    num_shapes: int = Field(default=16, ge=1)
    max_steps: int = Field(default=10_000, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)
    evaluate_every: int = Field(default=500, ge=1)
    schedule: Literal["inverse_square_root", "cosine", "constant"] = "inverse_square_root"
    peak_learning_rate: float = Field(default=0.001, gt=0)
    warmup_steps: int = Field(default=1000, ge=1)
    beta_2: float = Field(default=0.98, gt=0, lt=1)
    epsilon: float = Field(default=1e-9, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    quality_metric: Literal["bleu", "wer"] = "bleu"
    jit_compile: bool = False
    seed: int = Field(default=0, ge=0)


class RunConfig(Settings):
    """A recipe: one whole run, from data to training, as one YAML file.

    Example:
        >>> RunConfig.load("my_recipe.yaml").training.max_steps      # doctest: +SKIP
        8000
    """

    name: str = Field(pattern=r"^[^/\\.][^/\\]*$")  # it names a folder
    data: DataConfig
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @model_serializer(mode="wrap")
    def _what_counts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if self.model.start_from is not None:
            values.pop("tokenizer", None)
        return values

    @model_validator(mode="after")
    def _tokenizers_of_the_start(self) -> Self:
        if self.model.start_from is not None and "tokenizer" in self.model_fields_set:
            raise ValueError(
                "tokenizer must be left out beside model.start_from, which brings its own. "
                f"Received: model.start_from={self.model.start_from!r}"
            )
        return self

    @model_validator(mode="after")
    def _positions_reach(self) -> Self:
        architecture = self._architecture()
        if architecture is None:
            return self
        longest = max(self.data.max_source_length, self.data.max_target_length)
        if architecture.positions == "learned" and architecture.max_positions < longest:
            most = architecture.max_positions
            fixed = self.model.start_from is not None
            advice = (
                f"Lower data.max_source_length and data.max_target_length to {most}"
                if fixed
                else f"Raise it to {longest}, or lower data.max_source_length and "
                "data.max_target_length"
            )
            raise ValueError(
                f"model.{'architecture' if fixed else 'overrides'}.max_positions must reach the "
                "longest text that data lets through, because positions are learned. "
                f"{advice}. Received: max_positions={most}"
            )
        return self

    def _architecture(self) -> TransformerConfig | None:
        """Return what is known of the model before its tokenizers are."""
        if self.model.start_from is None:
            sizes = {"source_vocab_size": 1000, "target_vocab_size": 1000}
            return TransformerConfig.preset(self.model.preset, **(sizes | self.model.overrides))
        found = self.model.architecture
        return None if found is None else TransformerConfig(**found)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a recipe; a fault names the file and the setting.

        Raises:
            ValueError: not readable, not YAML, an unknown key or a value out of range.
        """
        try:
            values: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror}).") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: is not a YAML file ({error}).") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path}: must hold sections such as 'data:' and 'training:'.")
        try:
            return cls(**cast("dict[str, Any]", values))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None

    def to_yaml(self) -> str:
        """Return the recipe with every setting written out."""
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("keras_transformer") / "recipes"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def find_recipe(name_or_path: str) -> RunConfig:
    """Return a recipe of the package by name, or one of your own by the path of its YAML file.

    Raises:
        ValueError: no such recipe or file (the nearest name is suggested), or a fault in it.
    """
    if name_or_path in recipe_names():
        path = resources.files("keras_transformer") / "recipes" / f"{name_or_path}.yaml"
        return RunConfig.load(Path(str(path)))
    if name_or_path.endswith((".yaml", ".yml")):
        return RunConfig.load(name_or_path)
    hint = nearest(name_or_path, recipe_names()) or f" Choose from {', '.join(recipe_names())}."
    raise ValueError(
        f"recipe must be the name of a recipe or the path of a YAML file.{hint} "
        f"Received: recipe={name_or_path!r}"
    )

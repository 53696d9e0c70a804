"""A recipe: one whole run, from data to training, validated, to and from YAML."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, cast

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from keras_transformer.config import Settings, TransformerConfig, nearest, within


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
        files = (*needed, self.validation_pairs, self.validation_source)
        if self.folder is not None and not any(files):
            raise ValueError(
                f"data.folder (--data) must be left out when kind is {self.kind!r}, which reads no "
                f"files. Received: folder={self.folder!r}"
            )
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
    whichever runs out first) or `constant`. With `average_last` above 1, the mean of the weights
    at the last so many evaluations is validated too, and kept where it is better (section 6.1).
    At each evaluation the first `quality_examples` validation examples are translated, by greedy
    search, and measured; BLEU by sacrebleu's tokenizer `bleu_tokenize`, "none" for text that is
    tokenized already. The best model is that of the lowest validation `loss`, or the best by
    one of these measures: `best_by`. Training ends early where `patience` evaluations have
    brought nothing better. `tensorboard` writes the same numbers for TensorBoard. With
    `subword_nbest` above 1 each pass cuts a text in one of so many ways, drawn by probability to
    the power `subword_alpha` (subword regularisation, Kudo 2018); it wants unigram tokenizers.

    `precision` is Keras's dtype policy of the model; what is kept for inference is float32.
    `distribution` says where it trains: on `one` device, `mirrored` on several of one machine
    (TensorFlow), or `data_parallel` in one or more processes, of one or more machines (JAX);
    `devices` is how many of those that a process has, None: all. A run may be resumed elsewhere.
    """

    batch_tokens: int = Field(default=4096, ge=1)
    num_shapes: int = Field(default=16, ge=1)
    max_steps: int = Field(default=10_000, ge=1)
    max_minutes: float | None = Field(default=None, gt=0)
    evaluate_every: int = Field(default=500, ge=1)
    average_last: int = Field(default=1, ge=1)
    schedule: Literal["inverse_square_root", "cosine", "constant"] = "inverse_square_root"
    peak_learning_rate: float = Field(default=0.001, gt=0)
    warmup_steps: int = Field(default=1000, ge=1)
    beta_2: float = Field(default=0.98, gt=0, lt=1)
    epsilon: float = Field(default=1e-9, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    quality_metric: Literal["bleu", "wer"] = "bleu"
    bleu_tokenize: Literal["13a", "none"] = "13a"
    quality_examples: int = Field(default=0, ge=0)
    best_by: Literal["loss", "bleu", "chrf", "exact_match", "wer", "per"] = "loss"
    patience: int | None = Field(default=None, ge=1)
    tensorboard: bool = False
    jit_compile: bool = False
    subword_nbest: int = Field(default=1, ge=1)
    subword_alpha: float = Field(default=0.1, ge=0)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    distribution: Literal["one", "mirrored", "data_parallel"] = "one"
    devices: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)  # as Keras and NumPy take them

    @model_validator(mode="after")
    def _devices_of_a_distribution(self) -> Self:
        if self.distribution == "one" and self.devices not in (None, 1):
            raise ValueError(
                "training.devices must be left out when distribution is 'one'. Set distribution to "
                f"'mirrored' or 'data_parallel'. Received: devices={self.devices}"
            )
        return self

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.best_by != "loss" and not self.quality_examples:
            raise ValueError(
                "quality_examples must be above 0 where the best model is chosen by translations. "
                "Set it, to 200 say, or leave best_by at loss. "
                f"Received: quality_examples=0, best_by={self.best_by!r}"
            )
        return self


class _EachKeyOnce(yaml.SafeLoader):
    """Reads YAML; a key that stands twice in a section is an error, and not its last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if node.id == "mapping" else ():
            key = str(key_node.value)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise yaml.YAMLError(f"line {line}: {key!r} is there twice, remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


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
    def _cut_in_several_ways(self) -> Self:
        types = {self.tokenizer.model_type, self.tokenizer.target_model_type or "unigram"}
        given = self.model.start_from is None
        if given and self.training.subword_nbest > 1 and types != {"unigram"}:
            raise ValueError(
                "tokenizer.model_type must be unigram where texts are cut in several ways. Set it, "
                "or leave training.subword_nbest at 1. Received: "
                f"model_type={self.tokenizer.model_type!r}, "
                f"target_model_type={self.tokenizer.target_model_type!r}, "
                f"subword_nbest={self.training.subword_nbest}"
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
            text = Path(path).read_text(encoding="utf-8")
            values: Any = yaml.load(text, Loader=_EachKeyOnce)
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

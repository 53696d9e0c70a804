"""Settings for data of a user's own, chosen from one look at all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from keras_transformer.data.corpus import PairFile, ParallelFiles
from keras_transformer.recipe import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TokenizerConfig,
    TrainingConfig,
)

FEWEST_PAIRS = 20
# Characters of text for each piece of the vocabulary. Multi30k gets some 10,000 pieces by it,
# which is what is usually taken for it.
CHARACTERS_A_PIECE = 400
MOST_PIECES = 10_000
FEWEST_PIECES = 200
VALIDATION_PAIRS = 1000
MOST_VALIDATION = 0.1
SMALL_CORPUS = 200_000
# Layers on each side, d_model and d_ff for corpora of up to so many pairs. Multi30k has 29,000.
SIZES = ((5_000, (2, 128, 256)), (500_000, (4, 128, 256)), (None, (4, 256, 1024)))
# A pass is to have some tens of batches, that their order matters; a batch, work for two cores.
BATCHES_A_PASS = 20
FEWEST_TOKENS, MOST_TOKENS = 256, 4096
CHARACTERS_A_TOKEN = 4
PASSES = 10
FEWEST_STEPS, MOST_STEPS = 10_000, 100_000
EVALUATIONS = 100
PATIENCE = 20
QUALITY_EXAMPLES = 200
# A model that is trained further begins anew with Adam's averages, hence a warm-up.
TUNING_RATE, TUNING_WARMUP = 0.0002, 200
TUNED = "-tuned"  # ends the name of such a run


class Survey(NamedTuple):
    """What one pass over a corpus finds."""

    pairs: int
    characters: int
    alphabet: int
    skipped: int


def make_recipe(
    pairs: str | None = None,
    source: str | None = None,
    target: str | None = None,
    start_from: str | None = None,
    clip_norm: float | None = 1.0,
) -> tuple[RunConfig, Survey]:
    """Return a recipe for a TSV file or two parallel files, and what it was chosen by.

    The same files and `clip_norm` give the same recipe, so that the same command resumes. With
    `start_from`, the folder of a trained model, the recipe is one for training it further.
    `clip_norm` is None where gradients cannot be clipped, as on mirrored devices: such a run goes
    on there, and no other run does.

    Raises:
        ValueError: a file is missing or has a bad line (which is named), or too few pairs.
    """
    if pairs is not None:
        corpus, path = PairFile(pairs), Path(pairs)
        files: dict[str, Any] = {"kind": "pairs", "pairs": pairs}
    elif source is not None and target is not None:
        corpus, path = ParallelFiles(source, target), Path(source)
        files = {"kind": "parallel", "source": source, "target": target}
    else:
        raise ValueError("Give pairs, or source and target.")
    found = survey(corpus)
    if found.pairs < FEWEST_PAIRS:
        raise ValueError(
            f"{path}: must have at least {FEWEST_PAIRS} pairs, so that some can be held out. "
            f"Add more. Received: {found.pairs} pair{'s' * (found.pairs != 1)}"
        )
    name = path.name.split(".")[0] or "mine"
    data = DataConfig(**files, validation_fraction=_validation_fraction(found.pairs))
    if start_from is not None:
        config = RunConfig(
            name=f"{name}{TUNED}",
            data=data,
            model=ModelConfig(start_from=start_from),
            training=_training(found, clip_norm, TUNING_RATE, TUNING_WARMUP),
        )
        return config, found
    config = RunConfig(
        name=name,
        data=data,
        tokenizer=TokenizerConfig(model_type="bpe", vocab_size=_vocab_size(found)),
        model=ModelConfig(preset="tiny", overrides=_sizes(found.pairs)),
        training=_training(found, clip_norm, peak_learning_rate=0.003, warmup_steps=1000),
    )
    return config, found


def survey(corpus: PairFile | ParallelFiles) -> Survey:
    """Read a corpus once, in constant memory; any bad line is found here."""
    pairs = characters = 0
    alphabet: set[str] = set()
    for source, target in corpus:
        pairs += 1
        characters += len(source) + len(target)
        alphabet.update(source, target)
    return Survey(pairs, characters, len(alphabet), corpus.skipped_empty)


def _validation_fraction(pairs: int) -> float:
    """About 1,000 pairs of a large corpus, a tenth of a small one, never so few that it is none."""
    wanted = max(min(VALIDATION_PAIRS, MOST_VALIDATION * pairs), FEWEST_PAIRS / 2)
    return round(min(wanted / pairs, 0.5), 6)


def _vocab_size(found: Survey) -> int:
    by_size = round(found.characters / CHARACTERS_A_PIECE, -2)
    pieces = int(min(max(by_size, FEWEST_PIECES), MOST_PIECES))
    # Every character gets a piece of its own; normalization may add a few.
    return pieces + found.alphabet


def _sizes(pairs: int) -> dict[str, Any]:
    layers, d_model, d_ff = next(sizes for most, sizes in SIZES if most is None or pairs <= most)
    dropout = 0.3 if pairs < SMALL_CORPUS else 0.1
    return {"num_layers": layers, "d_model": d_model, "d_ff": d_ff, "dropout": dropout}


def _training(
    found: Survey, clip_norm: float | None, peak_learning_rate: float, warmup_steps: int
) -> TrainingConfig:
    tokens = found.characters / 2 / CHARACTERS_A_TOKEN  # of a side
    batch_tokens = FEWEST_TOKENS
    while batch_tokens < MOST_TOKENS and tokens / (2 * batch_tokens) >= BATCHES_A_PASS:
        batch_tokens *= 2
    steps = round(PASSES * tokens / batch_tokens, -3)
    max_steps = int(min(max(steps, FEWEST_STEPS), MOST_STEPS))
    return TrainingConfig(
        batch_tokens=batch_tokens,
        max_steps=max_steps,
        evaluate_every=max_steps // EVALUATIONS,
        patience=PATIENCE,
        quality_examples=QUALITY_EXAMPLES,
        clip_norm=clip_norm,
        peak_learning_rate=peak_learning_rate,
        warmup_steps=warmup_steps,
    )


def in_words(config: RunConfig, found: Survey) -> dict[str, str]:
    """Return what a recipe of `make_recipe` says, which options may have changed since."""
    if config.model.start_from is not None:
        return _tuning_in_words(config, found)
    sizes = config.model.overrides
    layers = sizes["num_layers"]
    return {
        **_data_in_words(config, found),
        "vocabulary": f"one for both sides, BPE, up to {config.tokenizer.vocab_size:,} pieces",
        "model": (
            f"{layers} + {layers} layers, d_model {sizes['d_model']}, d_ff {sizes['d_ff']}, "
            f"dropout {sizes['dropout']}"
        ),
        **_training_in_words(config.training),
    }


def _tuning_in_words(config: RunConfig, found: Survey) -> dict[str, str]:
    return {
        **_data_in_words(config, found),
        "model": f"that of {config.model.start_from}, with its tokenizers",
        "rate": f"at most {config.training.peak_learning_rate}, so that little is forgotten",
        **_training_in_words(config.training),
    }


def _data_in_words(config: RunConfig, found: Survey) -> dict[str, str]:
    fraction = config.data.validation_fraction
    skipped = f"; lines left out, with a blank side: {found.skipped:,}" if found.skipped else ""
    return {
        "data": f"{found.pairs:,} pairs{skipped}",
        "held out": (
            f"about {fraction * found.pairs:,.0f} pairs for validation, by a hash of the source"
        ),
    }


def _training_in_words(training: TrainingConfig) -> dict[str, str]:
    return {
        "batches": f"up to {training.batch_tokens:,} positions a side",
        "training": (
            f"up to {training.max_steps:,} steps, until {training.patience} evaluations bring "
            "nothing better; --max-minutes and Ctrl-C end it well"
        ),
        "to change": "copy config.yaml of the run folder, edit it, train it as a recipe",
    }

"""What the contestants of `decode.py` are asked to do, and with which files."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ALPHA = 0.6  # our length penalty divides by ((5 + length) / 6)^ALPHA
EXTRA_LENGTH = 50  # tokens an output may be longer than the longest source of its batch
LENGTHS = (64, 128, 256)


class Sentence(NamedTuple):
    """A source text, and its ids with the end symbol."""

    text: str
    ids: list[int]


@dataclass(frozen=True)
class Setting:
    """Where the contestants find the model, and how they run.

    Attributes:
        run: folder of the training run.
        bundle: the exported folder.
        ctranslate2: folder of the CTranslate2 model.
        special_ids: of pad, start and end.
        threads: threads of one operator.
        spin: whether threads that wait may spin.
    """

    run: Path
    bundle: Path
    ctranslate2: Path
    special_ids: tuple[int, int, int]
    threads: int = 2
    spin: bool = False


@dataclass(frozen=True)
class Task:
    """Batches to decode in one way.

    Attributes:
        name: for the tables.
        batches: sentences of similar length together.
        beam_size: 1: greedy.
        forced_length: every output has just this many tokens; 0: it ends by itself.
        ctranslate2_penalty: exponent of its own formula, see `equal_penalty`.
        cut: how many batches stand for one where a contestant is slow.
    """

    name: str
    batches: list[list[Sentence]]
    beam_size: int = 1
    forced_length: int = 0
    ctranslate2_penalty: float = ALPHA
    cut: int = 1

    def limit(self, batch: list[Sentence]) -> int:
        """Return `max_decoding_length` of a batch, one for all contestants."""
        return self.forced_length or EXTRA_LENGTH + max(len(sentence.ids) for sentence in batch)

    def share(self, slow: bool) -> list[int]:
        """Return which batches a contestant decodes: all, or every `cut`-th if it is slow."""
        step = self.cut if slow else 1
        return list(range(step // 2, len(self.batches), step))


def make_tasks(sentences: list[Sentence], singles: int, batched: int) -> list[Task]:
    """Return greedy and beam search at batch 1 and 32, and greedy search of forced lengths.

    Args:
        sentences: real ones, in the order of their file.
        singles: how many of them are decoded one by one.
        batched: how many in batches of 32.
    """
    penalty = equal_penalty(sentences)
    tasks = []
    for search, beam_size in (("greedy", 1), ("beam 4", 4)):
        for size, count, cut in ((1, singles, 10), (32, batched, 8)):
            batches = in_batches(sentences[:count], size)
            name = f"{search}, batch {size}"
            tasks.append(Task(name, batches, beam_size, 0, penalty, min(cut, len(batches))))
    by_length = in_batches(sentences, 1)
    typical = by_length[len(by_length) // 2 :][:4]
    tasks += [Task(f"{length} tokens", typical, 1, length) for length in LENGTHS]
    return tasks


def in_batches(sentences: list[Sentence], size: int) -> list[list[Sentence]]:
    """Sort by length and cut into batches."""
    ordered = sorted(sentences, key=lambda sentence: len(sentence.ids))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def equal_penalty(sentences: list[Sentence]) -> float:
    """Return the exponent with which CTranslate2 favours length as much as we do with `ALPHA`.

    It divides by length^exponent. Both logarithms are equally steep in the logarithm of the length
    n where exponent = ALPHA n / (5 + n); n is the mean length of the sentences.
    """
    mean = sum(len(sentence.ids) for sentence in sentences) / len(sentences)
    return round(ALPHA * mean / (5 + mean), 2)

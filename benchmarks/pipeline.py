"""Show that the data pipeline streams a corpus of any size in flat memory and pads little.

A tenth of the lines and all of them, generated, are each read for an epoch by a process of its own:

    python benchmarks/pipeline.py --lines 1000000

And the padding of real text, two files line by line with one BPE vocabulary for both:

    python benchmarks/pipeline.py --source train.en --target train.de

And that millions of pairs, made up while they are read and never stored, take no more memory at the
end than after a tenth of them; exit code 1 if they do:

    python benchmarks/pipeline.py --stream 5000000
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import keras_transformer as kt
from keras_transformer import backend

TRAINED_ON = 20_000  # lines for the tokenizer of generated text
MARKS = (0.1, 0.5)  # shares of a stream after which its memory is looked at, beside its end
# MB from the first mark to the last: where the allocator places the arrays of a pool differs from
# run to run by some 60. The ids of five million pairs, if they were kept, would take 600.
MOST_GROWTH = 100.0
HEAD = "    pairs  first batch   pairs/s  CPU s  peak RSS  of it at start  shapes  padding"
ROW = (
    "{pairs:9,}  {first:9.1f} s  {rate:8,.0f}  {cpu:5.1f}  {peak:5.0f} MB  {start:11.0f} MB"
    "  {shapes:6}  {waste:5.1f} %"
)


def main() -> None:
    """Read the command line, generate the lines if no files are given, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=1_000_000, help="lines to generate")
    parser.add_argument("--stream", type=int, metavar="PAIRS", help="pairs that are never stored")
    parser.add_argument("--source", type=Path, help="real source texts, in place of generated ones")
    parser.add_argument("--target", type=Path, help="their targets")
    parser.add_argument("--vocab-size", type=int, default=10_000, help="pieces, for real text")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    options = parser.parse_args()
    if (options.source is None) != (options.target is None):
        parser.error("give --source and --target together")
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "joint.model")
        if options.stream:
            sys.exit(stream(options.stream, model, options.batch_tokens))
        if options.source:
            files = [(options.source, options.target)]
            texts = chain.from_iterable(kt.data.ParallelFiles(*files[0]))
            kt.Tokenizer.train(texts, options.vocab_size, "bpe").save(model)
        else:
            files = [(Path(folder, f"{n}.tsv"),) for n in (options.lines // 10, options.lines)]
            for (path,) in files:
                generate(path, int(path.stem))
            texts = chain.from_iterable(islice(kt.data.PairFile(files[0][0]), TRAINED_ON))
            kt.Tokenizer.train(texts, 2000, "bpe").save(model)
        print(HEAD, flush=True)
        for paths in files:
            # A process that has done nothing else, so that its memory is the pipeline's.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                found = process.submit(measure, paths, model, options.batch_tokens).result()
            print(ROW.format(**found), flush=True)


def stream(pairs: int, model: Path, batch_tokens: int) -> int:
    """Read generated pairs once; returns 1 if memory grows with their number."""
    texts = chain.from_iterable(islice(MadeUp(pairs), TRAINED_ON))
    kt.Tokenizer.train(texts, 2000, "bpe").save(model)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        first, seconds, marks = process.submit(read_stream, pairs, model, batch_tokens).result()
    print(f"{pairs:,} pairs in {seconds:,.0f} s, {pairs / seconds:,.0f} a second")
    print(f"seconds to the first batch: {first:.1f}")
    for share, megabytes in marks:
        print(f"peak memory after {share:4.0%} of the pairs: {megabytes:,.0f} MB")
    growth = marks[-1][1] - marks[0][1]
    verdict = "flat" if growth <= MOST_GROWTH else "NOT FLAT"
    print(f"{verdict}: {growth:.0f} MB more, {MOST_GROWTH:.0f} are allowed")
    return int(growth > MOST_GROWTH)


def read_stream(
    pairs: int, model: Path, batch_tokens: int
) -> tuple[float, float, list[tuple[float, float]]]:
    """Return seconds to the first batch, of all, and (share, peak MB) at each of the marks."""
    backend.import_tensorflow()
    tokenizer = kt.Tokenizer.load(model)
    began, first, read = time.perf_counter(), 0.0, 0
    marks: list[tuple[float, float]] = []
    dataset = kt.data.make_dataset(MadeUp(pairs), tokenizer, tokenizer, batch_tokens)
    for (source_ids, _), _ in dataset.as_numpy_iterator():
        first = first or time.perf_counter() - began
        read += int((source_ids[:, 0] != tokenizer.pad_id).sum())
        if len(marks) < len(MARKS) and read >= MARKS[len(marks)] * pairs:
            marks.append((MARKS[len(marks)], peak_megabytes()))
    return first, time.perf_counter() - began, [*marks, (1.0, peak_megabytes())]


class MadeUp:
    """Pairs of about a dozen made-up words a side; equal for equal numbers of them."""

    def __init__(self, count: int):
        self.count = count

    def __iter__(self) -> Iterator[tuple[str, str]]:
        chance = random.Random(0)
        words = ["".join(chance.choices("abcdefghijklmnop", k=3 + i % 6)) for i in range(5000)]
        for _ in range(self.count):
            length = min(60, int(chance.lognormvariate(2.4, 0.4)) + 1)
            source = chance.choices(words, k=length)
            target = chance.choices(words, k=max(1, length + chance.randint(-2, 2)))
            yield " ".join(source), " ".join(target)


def generate(path: Path, lines: int) -> None:
    """Write so many made-up pairs."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(f"{source}\t{target}\n" for source, target in MadeUp(lines))


def measure(paths: tuple[Path, ...], model: Path, batch_tokens: int) -> dict[str, Any]:
    """Read one epoch; returns what a line of the table needs, padding as counted in batches."""
    backend.import_tensorflow()
    start = peak_megabytes()
    tokenizer = kt.Tokenizer.load(model)
    pairs = kt.data.PairFile(*paths) if len(paths) == 1 else kt.data.ParallelFiles(*paths)
    began, cpu = time.perf_counter(), time.process_time()
    dataset = kt.data.make_dataset(pairs, tokenizer, tokenizer, batch_tokens)
    positions = padding = count = 0
    first = 0.0
    for (source_ids, _), target_out in dataset.as_numpy_iterator():
        first = first or time.perf_counter() - began
        for ids in (source_ids, target_out):
            positions += ids.size
            padding += int((ids == tokenizer.pad_id).sum())
        count += int((source_ids[:, 0] != tokenizer.pad_id).sum())
    return {
        "pairs": count,
        "first": first,
        "rate": count / (time.perf_counter() - began),
        "cpu": time.process_time() - cpu,
        "peak": peak_megabytes(),
        "start": start,
        "shapes": len(kt.data.stream_of(dataset).shapes),
        "waste": 100 * padding / positions,
    }


def peak_megabytes() -> float:
    """Return the most memory this process has held so far, in MB (ru_maxrss: KB; macOS: bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


if __name__ == "__main__":
    main()

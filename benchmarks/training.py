"""Compare training with KerasHub and PyTorch, in one run whose processes take turns.

    python benchmarks/training.py --source train.en --target train.de --plot benchmarks/training.png

It needs the extras [train], [jax] and [references]. Its parts, chosen with --parts:

a  One padded batch for all: our training step on TensorFlow (graph, jit_compile) and JAX beside
   KerasHub's and PyTorch's, as a ratio to the fastest peer and as the share of what the machine
   does in a float32 matrix product. The same as benchmarks/layers.py without its forward pass.
b  Real text (`real_batches.py`): real target tokens a second of `make_dataset` and our step, and of
   KerasHub's model of the same size on batches of one fixed length; the better setting of each.
c  The most memory each of these processes has held, and ours if it gave freed memory back.
d  What our step costs against d_model (with d_ff and heads), layers, vocabulary and length (the
   positions of a batch stay the same), each varied alone around the model of part a.

Every contestant is a process of its own; they take turns while the others are stopped. Ratios are
made round by round; times and ratios are medians. Exit code 1 if a contestant failed.
"""

import argparse
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import layers
import real_batches
from layer_contestants import NAMES, SIZES, Sizes
from real_batches import Corpus, Entry
from training_report import Point, draw, print_costs, print_memory, print_real
from turns import Runner, print_failures

OURS = "ours, TensorFlow"  # what part d varies
SMALL = Sizes(1, 32, 64, 2, 500, 8, 8, 8)
GRID = {
    "d_model": (128, 256, 384, 512),
    "layers": (1, 2, 3, 6),
    "vocabulary": (2000, 8000, 16000, 32000),
    "length": (8, 16, 32, 64, 128),
}
SMALL_GRID = {"d_model": (32, 64), "layers": (1, 2), "vocabulary": (500,), "length": (4, 8)}


def main() -> None:
    """Run the parts one after the other, and print each as it ends."""
    options = parse()
    print(f"load of the machine {os.getloadavg()[0]:.1f}, {options.rounds} rounds", flush=True)
    sizes = SMALL if options.small else SIZES
    runners: list[Runner] = []
    memory: list[tuple[str, str, int]] = []
    if "a" in options.parts:
        found = layers.compare(options.only, options.rounds, options.threads, ("train",), sizes)
        print(f"\n## One padded batch: {sizes}")
        layers.print_table(found, options.threads, ("train",))
        runners += [contestant.runner for contestant in found]
        memory += [("padded batch", c.name, c.peak) for c in found if c.peak]
    if "b" in options.parts:
        entries = run_real(options)
        runners += [entry.runner for entry in entries]
        memory += [("real text", e.runner.name, e.turns[-1].peak) for e in entries if e.turns]
    if "c" in options.parts:
        print_memory(memory)
    if "d" in options.parts:
        points = run_costs(sizes, options)
        runners += [runner for point in points for runner in point.runners]
        print_costs(points)
        if options.plot:
            draw(options.plot, points)
    sys.exit(print_failures(runners))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices="abcd", default=list("abcd"))
    parser.add_argument("--source", type=Path, help="real source texts, a line each; for part b")
    parser.add_argument("--target", type=Path, help="their targets")
    parser.add_argument("--vocab-size", type=int, default=10_000, help="pieces for both languages")
    parser.add_argument("--batch-tokens", type=int, default=real_batches.ROWS * real_batches.LENGTH)
    parser.add_argument("--steps", type=int, default=10, help="of a turn in part b")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=NAMES)
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try this script")
    parser.add_argument("--plot", type=Path, help="the picture of part d, .png or .svg")
    options = parser.parse_args()
    if "b" in options.parts and not (options.source and options.target):
        parser.error("part b needs --source and --target")
    if "c" in options.parts and not {"a", "b"} & set(options.parts):
        parser.error("part c is about the processes of parts a and b: choose one of them too")
    known = {**layers.CONTESTANTS, **real_batches.CONTESTANTS}
    if unknown := set(options.only or ()) - set(known):
        parser.error(f"--only knows {', '.join(known)}. Received: {', '.join(unknown)}")
    return options


def run_real(options: argparse.Namespace) -> list[Entry]:
    """Measure real text and print it; memory that is given back only where memory is asked for."""
    with tempfile.TemporaryDirectory() as name:
        corpus = Corpus(
            options.source.resolve(),
            options.target.resolve(),
            Path(name),
            options.vocab_size,
            options.batch_tokens,
        )
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            prepared = process.submit(real_batches.prepare, corpus).result()
        left_out = set() if "c" in options.parts else {real_batches.GIVING_BACK}
        if options.only:
            left_out = set(real_batches.CONTESTANTS) - set(options.only)
        names = [name for name in real_batches.CONTESTANTS if name not in left_out]
        sizes = real_batches.sizes_for(prepared.vocabulary, options.small)
        entries = real_batches.compare(
            names, corpus, sizes, options.rounds, options.steps, options.threads
        )
    print_real(entries, prepared, sizes, options.steps)
    return entries


def run_costs(middle: Sizes, options: argparse.Namespace) -> list[Point]:
    """Measure our step at every point of the grid, each beside the matrix product."""
    grid = SMALL_GRID if options.small else GRID
    points: list[Point] = []
    measured: dict[Sizes, list[layers.Contestant]] = {}
    for axis, values in grid.items():
        for value in values:
            sizes = varied(middle, axis, value)
            if sizes not in measured:
                print(f"{axis} {value}", flush=True)
                measured[sizes] = layers.compare(
                    [OURS], options.rounds, options.threads, ("train",), sizes
                )
            points.append(Point(axis, value, *measured[sizes]))
    return points


def varied(middle: Sizes, axis: str, value: int) -> Sizes:
    """Return the sizes with one of them changed, and what goes with it."""
    if axis == "d_model":
        heads = max(1, value * middle.heads // middle.d_model)
        return replace(middle, d_model=value, d_ff=4 * value, heads=heads)
    if axis == "length":
        rows = max(1, middle.batch * middle.source // value)
        return replace(middle, batch=rows, source=value, target=value)
    return replace(middle, **{axis: value})


if __name__ == "__main__":
    main()

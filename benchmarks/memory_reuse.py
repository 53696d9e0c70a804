"""Show what `backend.keep_freed_memory` saves: the training step of the g2p recipe's size.

Fresh processes with and without it take turns, so that both see the same machine:

    python benchmarks/memory_reuse.py --rounds 3 --steps 16

Prints for each the medians of a step, then their ratio. Only glibc (Linux) is affected.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from statistics import median

import numpy as np

from keras_transformer import backend

VOCAB, ROWS, LENGTH = 45, 204, 10  # one batch of the recipe: 2,048 positions
WARM_UP = 4  # steps that trace the graph and fill the allocator
NAMES = ("wall ms", "CPU ms", "of it system ms", "page faults")


def main() -> None:
    """Run the processes in turns and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--steps", type=int, default=16, help="measured steps of a process")
    options = parser.parse_args()
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    print("a step, medians      " + "".join(f"{name:>17}" for name in NAMES))
    for _ in range(options.rounds):
        for keep in found:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                steps = process.submit(train, keep, options.steps).result()
            show("keeping" if keep else "not keeping", steps)
            found[keep] += steps
    for keep, steps in found.items():
        show("all, " + ("keeping" if keep else "not keeping"), steps)
    without, with_it = (np.median(found[keep], axis=0) for keep in (False, True))
    ratios = without / np.maximum(with_it, 1e-9)
    print(f"{'not keeping / keeping':21}" + "".join(f"{ratio:15.2f} x" for ratio in ratios))


def show(name: str, steps: list[list[float]]) -> None:
    """Print the median of each measure."""
    medians = [median(values) for values in zip(*steps, strict=True)]
    print(f"{name:21}" + "".join(f"{value:17,.1f}" for value in medians), flush=True)


def train(keep: bool, steps: int) -> list[list[float]]:
    """Train on random ids; returns the measures of each step, in the order of `NAMES`."""
    if not keep:
        backend.keep_freed_memory = lambda: None
    backend.make_deterministic(seed=0)  # as the trainer does
    from keras_transformer.config import TrainingConfig, TransformerConfig
    from keras_transformer.training.trainer import compiled_model

    config = TransformerConfig(
        source_vocab_size=VOCAB,
        target_vocab_size=VOCAB,
        num_encoder_layers=3,
        num_decoder_layers=2,
        d_model=128,
        d_ff=256,
        num_heads=4,
        norm_first=True,
    )
    model = compiled_model(config, TrainingConfig())
    ids = np.random.default_rng(0).integers(4, VOCAB, (2, ROWS, LENGTH), dtype="int32")
    measures: list[list[float]] = []
    for step in range(WARM_UP + steps):
        before = usage()
        model.train_on_batch((ids[0], ids[1]), ids[1])
        if step >= WARM_UP:
            measures.append([b - a for a, b in zip(before, usage(), strict=True)])
    return measures


def usage() -> tuple[float, float, float, float]:
    """Return what this process has used so far, all its threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = 1000 * (used.ru_utime + used.ru_stime)
    return 1000 * time.perf_counter(), cpu, 1000 * used.ru_stime, used.ru_minflt


if __name__ == "__main__":
    main()

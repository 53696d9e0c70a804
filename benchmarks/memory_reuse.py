"""Show what `backend.keep_freed_memory` saves in the training step of the g2p recipe.

Fresh processes with and without it take turns, so that both see the same machine:

    python benchmarks/memory_reuse.py --rounds 3 --steps 16

Prints for each the medians of a step, then their ratio, and the most memory that the processes have
held. Only glibc (Linux) is affected.
"""

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice, pairwise
from multiprocessing import get_context
from statistics import median

import numpy as np

import keras_transformer as kt
from keras_transformer import backend
from keras_transformer.recipe import find_recipe

WARM_UP = 4  # steps: the graph is traced, the allocator filled
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
    peaks: dict[bool, list[float]] = {False: [], True: []}
    print("a step, medians      " + "".join(f"{name:>17}" for name in NAMES))
    for _ in range(options.rounds):
        for keep in found:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                steps, peak = process.submit(train, keep, options.steps).result()
            show("keeping" if keep else "not keeping", steps)
            found[keep] += steps
            peaks[keep].append(peak)
    for keep, steps in found.items():
        show("all, " + ("keeping" if keep else "not keeping"), steps)
    without, with_it = (np.median(found[keep], axis=0)[:2] for keep in (False, True))
    ratios = without / with_it
    print(f"{'not keeping / keeping':21}" + "".join(f"{ratio:15.2f} x" for ratio in ratios))
    for keep, megabytes in peaks.items():
        print(f"peak memory, {'keeping' if keep else 'not keeping'}: {median(megabytes):,.0f} MB")


def show(name: str, steps: list[list[float]]) -> None:
    """Print the median of each measure."""
    medians = [median(values) for values in zip(*steps, strict=True)]
    print(f"{name:21}" + "".join(f"{value:17,.1f}" for value in medians), flush=True)


def train(keep: bool, steps: int) -> tuple[list[list[float]], float]:
    """Train as the trainer does.

    Returns:
        The measures of each step, in the order of `NAMES`, and the peak memory in MB.
    """
    if not keep:
        backend.keep_freed_memory = lambda: None
    backend.make_deterministic(seed=0)
    import keras

    from keras_transformer.training.compilation import compiled_model

    recipe = find_recipe("g2p")
    pairs = list(islice(kt.data.CmuDict(), 20_000))
    source = kt.Tokenizer.train((s for s, _ in pairs), 64, "char")
    target = kt.Tokenizer.train((t for _, t in pairs), 64, "word")
    config = kt.TransformerConfig.for_tokenizers(
        recipe.model.preset, source, target, **recipe.model.overrides
    )
    model = compiled_model(config, recipe.training)
    moments: list[tuple[float, ...]] = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: moments.append(usage())
    )
    model.fit(
        kt.data.make_dataset(pairs, source, target, recipe.training.batch_tokens, repeat=True),
        steps_per_epoch=WARM_UP + steps,
        shuffle=False,
        verbose=0,
        callbacks=[record],
    )
    measured = [
        [after - before for before, after in zip(*pair, strict=True)]
        for pair in pairwise(moments[WARM_UP - 1 :])
    ]
    return measured, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def usage() -> tuple[float, float, float, float]:
    """Return what this process has used so far, all its threads together."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = 1000 * (used.ru_utime + used.ru_stime)
    return 1000 * time.perf_counter(), cpu, 1000 * used.ru_stime, used.ru_minflt


if __name__ == "__main__":
    main()

"""Say how well the weights translate that a run with `average_last` has kept, and their mean.

    python benchmarks/snapshots.py runs/multi30k --beam-size 5

Validation BLEU (`tokenize="none"`) of the states in `snapshots/` that are `--steps` apart, and of
the mean of the last `average_last` up to each. What the run made of them is `best.keras`.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from keras_transformer import backend, evaluation
from keras_transformer.array_files import read_arrays
from keras_transformer.data.splits import open_splits
from keras_transformer.run_folder import RunFolder
from keras_transformer.training.quality import take_examples
from keras_transformer.translator import Translator


def main() -> None:
    """Print a row for each state."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--beam-size", type=int, default=1)
    parser.add_argument("--length-penalty", type=float, default=0.6)
    parser.add_argument("--steps", type=int, default=1000, help="the last state in any case")
    options = parser.parse_args()
    backend.start()
    run = RunFolder.open(options.run)
    model = run.load_best_model()
    translator = Translator(model, run.source_tokenizer(), run.target_tokenizer())
    examples = take_examples(open_splits(run.recipe.data).validation, "bleu")
    states = {int(p.stem.split("-")[1]): p for p in (run.path / "snapshots").glob("step-*.npz")}
    if not states:
        parser.error(f"{run.path} must be a run with average_last above 1: it has no snapshots")
    with open(run.path / "metrics.csv", newline="", encoding="utf-8") as file:
        minutes = {int(row["step"]): float(row["seconds"]) / 60 for row in csv.DictReader(file)}

    def bleu() -> str:
        sources = [source for source, _ in examples]
        found = translator.translate(
            sources, beam_size=options.beam_size, length_penalty=options.length_penalty
        )
        texts = [hypotheses[0].text for hypotheses in found]
        references = [references for _, references in examples]
        return f"{evaluation.bleu(texts, references, tokenize='none').value:.2f}"

    print(f"best.keras: {bleu()}")
    print("| steps | minutes | BLEU | BLEU, mean |\n|---|---|---|---|")
    count = run.recipe.training.average_last
    for step in sorted(states):
        if step % options.steps and step != max(states):
            continue
        last = [weights(states[other]) for other in sorted(states) if other <= step][-count:]
        model.set_weights(last[-1])
        own = bleu()
        model.set_weights(
            [np.mean(arrays, axis=0, dtype="float64") for arrays in zip(*last, strict=True)]
        )
        print(f"| {step:,} | {minutes[step]:.0f} | {own} | {bleu()} |", flush=True)


def weights(path: Path) -> list[np.ndarray]:
    """Return the arrays of a snapshot, as `model.set_weights` wants them."""
    arrays, _ = read_arrays(path)
    return [arrays[name] for name in sorted(arrays)]


if __name__ == "__main__":
    main()

"""Show that `kill -9` costs no more than the steps since the last checkpoint, and changes nothing.

A tiny recipe with dropout 0.3 is trained in peace, once more in peace, and killed at ten random
moments and resumed each time:

    python benchmarks/kill.py --kills 10

The first kill falls into the start of the program, the others soon after a new checkpoint. Weights,
optimizer, dropout seeds and rows of metrics.csv must be equal bit for bit; exit code 1 if not.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from keras_transformer.recipe import find_recipe
from keras_transformer.run_folder import RunFolder

CLOCKS = {"epoch", "seconds", "target_tokens_per_second"}  # columns that two runs need not share
COMMAND = Path(sys.executable).with_name("keras-transformer")


def main() -> None:
    """Train undisturbed, train killed, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200, help="a checkpoint every 20")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        parts = ("tiny.yaml", "peace", "again", "killed")
        recipe, peace, again, killed = (Path(name, part) for part in parts)
        write_recipe(recipe, options.steps)
        process, began = start(recipe, peace), time.monotonic()
        wait_for_checkpoint(process, peace)
        ready = time.monotonic() - began
        finish(process, peace)
        rest = time.monotonic() - began - ready
        print(f"undisturbed: {ready:.1f} s to the first checkpoint, then {rest:.1f} s", flush=True)
        finish(start(recipe, again), again)
        faults = report("two undisturbed runs with one seed", differences(peace, again))
        for kill in range(options.kills):
            process = start(recipe, killed)
            if kill:
                wait_for_checkpoint(process, killed)
            time.sleep(random.uniform(0, 0.75 * rest / options.kills if kill else ready))
            process.kill()
            ended = "killed" if process.wait() < 0 else "already through"
            print(f"{ended}, newest checkpoint: {newest(killed)}", flush=True)
        finish(start(recipe, killed), killed)
        faults += report("undisturbed and killed", differences(peace, killed))
    sys.exit(bool(faults))


def report(runs: str, faults: list[str]) -> list[str]:
    """Print how two runs compare; returns the differences."""
    found = "\n  ".join(faults) or "equal bit for bit: every variable, best.keras, every metric"
    print(f"{runs}: {found}", flush=True)
    return faults


def write_recipe(path: Path, steps: int) -> None:
    """Write the `reverse` recipe smaller, with dropout, and ended by steps alone."""
    values = find_recipe("reverse").model_dump()
    values["data"]["num_examples"] = 2000
    values["model"]["overrides"] |= {"d_model": 32, "d_ff": 64, "dropout": 0.3}
    values["training"] |= {"max_steps": steps, "max_minutes": None, "evaluate_every": 20}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")


def start(recipe: Path, run: Path) -> subprocess.Popen[bytes]:
    """Begin or resume a run by the one command for both; its screen goes to a file beside it."""
    command = [COMMAND, "train", recipe, "--run-folder", run]
    with open(run.with_suffix(".log"), "wb") as screen:
        return subprocess.Popen(command, stdout=screen, stderr=screen)


def finish(process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait for the run to end by itself; its screen is the error if it fails."""
    if process.wait():
        sys.exit(run.with_suffix(".log").read_text(encoding="utf-8"))


def wait_for_checkpoint(process: subprocess.Popen[bytes], run: Path) -> None:
    """Wait until the run has written one more checkpoint, or has ended."""
    before = newest(run)
    while newest(run) == before and process.poll() is None:
        time.sleep(0.02)


def newest(run: Path) -> str:
    """Return the name of the newest checkpoint."""
    return max((path.name for path in run.glob("checkpoints/step-*.npz")), default="none")


def differences(peace: Path, killed: Path) -> list[str]:
    """Name everything in which two finished runs differ."""
    one, other = results(peace), results(killed)
    return [
        f"{name} is missing, repeated or different"
        for name in sorted(one.keys() | other.keys())
        if name not in one or name not in other or not np.array_equal(one[name], other[name])
    ]


def results(run: Path) -> dict[str, Any]:
    """Return the last checkpoint, best.keras and metrics.csv; no clocks, no epochs of `fit`."""
    with np.load(run / "checkpoints" / newest(run)) as file:
        found: dict[str, Any] = {
            f"variable {i}": file[i] for i in file.files if i not in ("progress", "sha256")
        }
    best = RunFolder.open(run).load_best_model().get_weights()
    found |= {f"best.keras, weight {i}": weight for i, weight in enumerate(best)}
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kept = [value for key, value in sorted(row.items()) if key not in CLOCKS]
            found.setdefault(f"metrics.csv, step {row['step']}", []).append(kept)
    return found


if __name__ == "__main__":
    main()

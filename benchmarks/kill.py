"""Show that `kill -9` costs no more than the steps since the last checkpoint, and changes nothing.

A tiny recipe with dropout is trained once in peace and once killed at random moments, each time
resumed by the same command:

    python benchmarks/kill.py --kills 5

The first kill falls into the start of the program, the others into training. Weights, optimizer,
dropout seeds and every row of metrics.csv must then be equal bit for bit; exit code 1 if not.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from keras_transformer.config import find_recipe

COMMAND = Path(sys.executable).with_name("keras-transformer")
MAY_DIFFER = ("epoch", "seconds")  # epochs of `fit` count from each start, and time is time


def main() -> None:
    """Train undisturbed, train killed, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400, help="a checkpoint every 20")
    parser.add_argument("--seed", type=int, default=0, help="chooses the moments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = write_recipe(folder / "tiny.yaml", options.steps)
        began = time.monotonic()
        process = start(recipe, folder / "peace")
        while not any((folder / "peace").glob("checkpoints/*")) and process.poll() is None:
            time.sleep(0.05)
        first = time.monotonic() - began
        finish(process)
        rest = time.monotonic() - began - first
        print(f"undisturbed: first checkpoint after {first:.1f} s, {rest:.1f} s from there on")
        chance = random.Random(options.seed)
        for kill in range(options.kills):
            moment = chance.uniform(0, first)
            if kill:
                moment = first + chance.uniform(-0.1, 1) * rest / options.kills
            kill_after(moment, start(recipe, folder / "killed"), folder / "killed")
        finish(start(recipe, folder / "killed"))
        faults = differences(folder / "peace", folder / "killed")
    print("\n".join(faults) or "equal bit for bit: every variable, best.keras, every metric")
    sys.exit(bool(faults))


def write_recipe(path: Path, steps: int) -> Path:
    """Write the `reverse` recipe smaller, with dropout, and ended by steps alone."""
    values = find_recipe("reverse").model_dump()
    values["data"]["num_examples"] = 2000
    values["model"]["overrides"] |= {"d_model": 32, "d_ff": 64, "dropout": 0.1}
    values["training"] |= {"max_steps": steps, "max_minutes": None, "evaluate_every": 20}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def start(recipe: Path, run: Path) -> subprocess.Popen[str]:
    """Begin or resume a run by the one command for both."""
    command = [str(COMMAND), "train", str(recipe), "--run-folder", str(run)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the run to end by itself; its screen is the error if it fails."""
    screen, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the run ended with exit code {process.returncode}:\n{screen}")


def kill_after(seconds: float, process: subprocess.Popen[str], run: Path) -> None:
    """Let the run live that long; says where it was."""
    try:
        process.wait(seconds)
        finish(process)  # it was through, or failed
        print("the run was through before a kill")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        found = sorted(path.stem for path in run.glob("checkpoints/step-*.npz"))
        print(f"killed after {seconds:4.1f} s, newest checkpoint: {(found or ['none'])[-1]}")


def differences(peace: Path, killed: Path) -> list[str]:
    """Name everything in which two finished runs differ."""
    faults = []
    one, other = (variables(run) for run in (peace, killed))
    if one.keys() != other.keys():
        faults.append(f"other variables: {sorted(one.keys() ^ other.keys())}")
    faults += [
        f"{name}: largest difference {np.abs(one[name] - other[name]).max()}"
        for name in one.keys() & other.keys()
        if not np.array_equal(one[name], other[name])
    ]
    expected, received = metrics(peace), metrics(killed)
    if expected != received:
        steps = [step for step in expected if received.get(step) != expected[step]]
        faults.append(f"metrics.csv: missing, different or repeated at step {', '.join(steps)}")
    return faults


def variables(run: Path) -> dict[str, np.ndarray]:
    """Return every array of the last checkpoint, and the weights of best.keras."""
    with np.load(max(run.glob("checkpoints/step-*.npz"))) as file:
        arrays = {f"variable {name}": file[name] for name in file.files if name != "progress"}
    import keras

    import keras_transformer.model  # noqa: F401  registers the class

    best = keras.saving.load_model(run / "best.keras", compile=False)
    return arrays | {f"best.keras {w.path}": w.numpy() for w in best.weights}


def metrics(run: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of metrics.csv by step, as text and so to the last digit."""
    rows: dict[str, list[dict[str, str]]] = {}
    with open(run / "metrics.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            kept = {key: value for key, value in row.items() if key not in MAY_DIFFER}
            rows.setdefault(row["step"], []).append(kept)
    return rows


if __name__ == "__main__":
    main()

"""Execute the notebooks, each in a clean kernel, and keep their outputs.

    python notebooks/execute.py [NOTEBOOK ...]

A notebook is replaced only when all of its cells have run, without a word on stderr. It then says
in its metadata which sources its outputs come from, so that a test can tell stale ones.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from keras_transformer.files import replacing

FOLDER = Path(__file__).parent
SMALL = "KERAS_TRANSFORMER_SMALL"  # set to 1: few steps and small sizes, for the tests
KEY = "executed"
PATIENCE = 1800  # seconds for one cell, on a machine that others use too


def notebook_paths() -> list[Path]:
    """Return the notebooks of this folder in their order."""
    return sorted(FOLDER.glob("*.ipynb"))


def source_digest(notebook: NotebookNode) -> str:
    """Return a SHA-256 of the code, which outputs come from; prose may be corrected without it."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(cells, ensure_ascii=False).encode()).hexdigest()


def complaints(notebook: NotebookNode) -> list[str]:
    """Return what cells wrote to stderr, warnings among it, or why their outputs are not theirs."""
    found = []
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        if cell.execution_count != number:
            found.append(f"cell {number} has run as number {cell.execution_count}")
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                found.append(f"cell {number}: {output.get('text') or output.get('evalue')}")
    if notebook.metadata.get(KEY, {}).get("sources") != source_digest(notebook):
        found.append("its outputs come from other sources: run make notebooks")
    return found


def execute(path: Path, small: bool = False) -> NotebookNode:
    """Return the notebook at `path` with the outputs of a clean kernel.

    The kernel works in a folder of its own, which is removed.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell has failed.
    """
    notebook = nbformat.read(path, as_version=4)
    root = FOLDER.parent
    environment = {**os.environ, SMALL: str(int(small))}
    environment["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "export")])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=PATIENCE,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            extra_arguments=["--log-level=ERROR"],  # no word on how it talks to this process
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day is nobody's news
    notebook.metadata[KEY] = {"sources": source_digest(notebook)}
    return notebook


def main(names: list[str]) -> int:
    """Execute and save the named notebooks, or all; return how many have complaints."""
    bad = 0
    for path in [Path(name) for name in names] or notebook_paths():
        start = time.perf_counter()
        notebook = execute(path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
        found = complaints(notebook)
        for line in found:
            print(f"  {line}", flush=True)
        bad += bool(found)
        if not found:
            with replacing(path) as aside:
                nbformat.write(notebook, aside)
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

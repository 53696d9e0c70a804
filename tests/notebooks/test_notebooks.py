"""The notebooks run, and what they show is what their cells give."""

import execute
import nbformat
import pytest

PATHS = execute.notebook_paths()
each = pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
FIRST_CELLS = 5


def pictures(notebook):
    """The number of each code cell that shows a picture."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        number
        for number, cell in enumerate(cells, start=1)
        if any("image/png" in output.get("data", {}) for output in cell.outputs)
    ]


@each
def test_outputs_are_those_of_the_committed_sources(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert execute.complaints(notebook) == []
    assert pictures(notebook)


@pytest.mark.slow
@pytest.mark.tensorflow
@each
def test_a_notebook_runs_from_top_to_bottom_in_small(path):
    notebook = execute.execute(path, small=True)
    assert execute.complaints(notebook) == []


def test_the_first_picture_of_attention_comes_within_five_cells():
    assert pictures(nbformat.read(PATHS[0], as_version=4))[0] <= FIRST_CELLS


def test_outputs_of_other_sources_are_told():
    notebook = nbformat.read(PATHS[0], as_version=4)
    notebook.cells[0].source += " "
    assert notebook.cells[0].cell_type == "markdown"
    assert execute.complaints(notebook) == [], "prose may be corrected"
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += " "
    assert execute.complaints(notebook) == [
        "its outputs come from other sources: run make notebooks"
    ]


def test_cells_out_of_order_and_warnings_are_told():
    warning = nbformat.v4.new_output("stream", name="stderr", text="careful")
    cells = [nbformat.v4.new_code_cell("1", execution_count=number) for number in (2, 1)]
    cells[1].outputs = [warning]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata[execute.KEY] = {"sources": execute.source_digest(notebook)}
    assert execute.complaints(notebook) == [
        "cell 1 has run as number 2",
        "cell 2 has run as number 1",
        "cell 2: careful",
    ]

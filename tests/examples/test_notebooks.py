# SPDX-License-Identifier: Apache-2.0
"""The notebooks run as they are committed, with what they show."""

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from ..support.run_notebooks import MAX_BYTES, NOTEBOOKS, copy_examples, execute, find_faults


@pytest.fixture
def folder(tmp_path):
    """Where `make demo` has not run, so that a notebook makes what it needs itself."""
    return copy_examples(tmp_path)


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == ["fine_tune_and_export", "first_steps"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_what_is_committed(path, folder):
    if path.stem == "fine_tune_and_export":
        for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
            pytest.importorskip(package, reason="the extras `onnx` and `openvino` bring it")
    committed = nbformat.read(path, as_version=4)
    nbformat.validate(committed)
    assert path.stat().st_size <= MAX_BYTES
    assert find_faults(committed, execute(path, folder)) == []


@pytest.fixture
def small(tmp_path):
    """A notebook of three cells, and where it lies."""
    cells = [nbformat.v4.new_code_cell(source) for source in ("print(1)", "2", "x = 3")]
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_cell_that_raises_fails(small):
    notebook = nbformat.read(small, as_version=4)
    notebook.cells[2].source = "1 / 0"
    nbformat.write(notebook, small)
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(small, small.parent)


def test_outputs_that_lack_or_tell_of_the_machine_are_faults(small):
    fresh = execute(small, small.parent)
    assert find_faults(fresh, fresh) == []
    assert len(find_faults(nbformat.read(small, as_version=4), fresh)) == 3
    without = nbformat.from_dict(fresh)
    without.cells[1].outputs = []
    assert find_faults(without, fresh) == ["cell 1 (2) shows [], where a run shows ['execute_result text/plain']"]
    telling = nbformat.from_dict(fresh)
    telling.cells[0].outputs[0].text = "/home/someone/videos"
    assert find_faults(telling, fresh) == ["an output names /home/"]


def test_warnings_bars_and_times_are_left_out(small):
    notebook = nbformat.read(small, as_version=4)
    notebook.cells[1].source = (
        "import sys\n"
        "from IPython.display import HTML, display\n"
        "print('a warning', file=sys.stderr)\n"
        "display(HTML('a bar'))"
    )
    nbformat.write(notebook, small)
    assert execute(small, small.parent).cells[1].outputs == []

# SPDX-License-Identifier: Apache-2.0
"""Runs the notebooks of `examples/notebooks` in a kernel of this Python, and keeps of their outputs what is small.

    python -m tests.support.run_notebooks

after `make demo` rewrites them with the outputs that are committed: what is printed, and pictures of few colours.
Progress bars, warnings and times are left out, so that a second run changes nothing but what has changed.
"""

import base64
import io
import json
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image


ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 300_000
TIMEOUT = 900  # seconds for a cell
# of a picture
WIDTH, COLOURS = 900, 256


class ThisPython(AsyncKernelManager):
    """A kernel of the Python that runs: what Jupyter finds by a name may be another's."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=self.kernel_name, language="python")


def copy_examples(folder: Path, demo: Path | None = None) -> Path:
    """A copy of the examples to run in, since notebooks write beside themselves; returns the notebooks' folder.

    Args:
        folder: that is to hold `examples`.
        demo: what `make demo` made, if it is to be seen.
    """
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=lambda _, names: [n for n in names if n[0] == "_"])
    if demo is not None:
        (folder / "demo").symlink_to(demo)
    return folder / "examples" / "notebooks"


def execute(path: Path, folder: Path) -> NotebookNode:
    """The notebook with its outputs.

    Args:
        path: of the notebook.
        folder: where it runs.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, kernel_manager_class=ThisPython, timeout=TIMEOUT, resources=place).execute()
    tidy(notebook)
    return notebook


def tidy(notebook: NotebookNode) -> None:
    """Leaves what a cell printed and the picture that it shows, and no traces of the machine or the hour."""
    # the kernel writes its own version there
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = join_streams([kept for kept in map(tidy_output, cell.outputs) if kept is not None])


def tidy_output(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = output.get("data", {})
    if "image/png" in data:
        picture = {"image/png": shrink(data["image/png"]), "text/plain": data["text/plain"]}
        return nbformat.v4.new_output("display_data", picture)
    # a bar or a table of progress
    return output if output.output_type == "execute_result" else None


def join_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What is printed comes in pieces, as it happens."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if joined and output.output_type == joined[-1].output_type == "stream":
            joined[-1].text += output.text
        else:
            joined.append(output)
    return joined


def shrink(encoded: str) -> str:
    """A PNG of few colours, and no wider than a page shows it."""
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")
    if picture.width > WIDTH:
        picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.quantize(COLOURS).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def find_faults(committed: NotebookNode, fresh: NotebookNode) -> list[str]:
    """What is wrong with the outputs that are committed, beside those of a run of the same cells."""
    faults = []
    for number, (old, new) in enumerate(zip(committed.cells, fresh.cells)):
        if new.cell_type != "code":
            continue
        first = new.source.split("\n")[0]
        if old.execution_count != new.execution_count:
            faults.append(f"cell {number} ({first}) was not run, or not in order")
        elif kinds(old) != kinds(new):
            faults.append(f"cell {number} ({first}) shows {kinds(old)}, where a run shows {kinds(new)}")
    text = json.dumps([cell.get("outputs", []) for cell in committed.cells])
    faults += [
        f"an output names {place}" for place in ("/home/", "/root/", "/tmp/", "/Users/", " at 0x") if place in text
    ]
    return faults


def kinds(cell: NotebookNode) -> list[str]:
    """What a cell shows, in words."""
    return [f"{output.output_type} {' '.join(sorted(output.get('data', {})))}".strip() for output in cell.outputs]


def main() -> None:
    demo = ROOT / "demo"
    if not (demo / "tubevit").exists():
        sys.exit(f"Error: there is no {demo / 'tubevit'}; run `make demo` first, whose model the notebooks show.")
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = execute(path, copy_examples(Path(folder), demo))
        if faults := find_faults(notebook, notebook):
            sys.exit(f"Error: {path.name}: {'; '.join(faults)}")
        nbformat.write(notebook, path)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}: {size / 1000:.0f} kB")
        if size > MAX_BYTES:
            sys.exit(f"Error: {path.name} is larger than {MAX_BYTES / 1000:.0f} kB; show fewer or smaller pictures.")


if __name__ == "__main__":
    main()

"""docs/first_run.ipynb runs from top to bottom, and what is stored of it is small and clean."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FILE = Path(__file__).parents[2] / "docs" / "first_run.ipynb"
MACHINE = re.compile(r"/(work|home|root|tmp|usr|Users|mnt|opt)/|site-packages|[A-Z]:\\\\")


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output for output in outputs if "image/png" in output.get("data", {})]


def test_what_is_stored_is_small_and_names_no_machine():
    text = FILE.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    assert len(text.encode()) < 300_000
    images = [output["data"].pop("image/png") for output in pictures(notebook)]
    assert len(images) == 4
    assert MACHINE.search(nbformat.writes(notebook)) is None


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of Jupyter's own libraries
def test_it_runs_from_top_to_bottom(tmp_path):
    notebook = nbformat.read(FILE, as_version=4)
    stored = {cell["id"]: len(cell.get("outputs", [])) for cell in notebook.cells}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    where = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, timeout=300, coalesce_streams=True, resources=where)
    client.execute()
    assert len(pictures(notebook)) == 4
    assert {cell["id"]: len(cell.get("outputs", [])) for cell in notebook.cells} == stored
    board = notebook.cells[1].outputs[1]["data"]["text/plain"]
    assert "4/4 updates" in board  # the bar was drawn in its place, update after update
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()

"""scripts/quickstart.ipynb runs, on few images, and shows pictures; and is stored with what it shows."""

import base64
import io
import re

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = REPOSITORY / "scripts" / "quickstart.ipynb"
NUMBERS = "IMAGES, DIMENSIONS, EPOCHS = "
PICTURES = 7  # cells that show one


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def outputs_of(notebook, kind):
    """The outputs of a MIME type."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def text_of(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_the_notebook_runs_on_few_images(notebook, tmp_path, monkeypatch):
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):  # the user's stay as they are
        monkeypatch.setenv(variable, str(tmp_path / variable))
    first = next(cell for cell in notebook.cells if NUMBERS in cell.source)
    first.source = re.sub(f"{NUMBERS}.*", f"{NUMBERS}64, 6, 1", first.source)
    first.source = first.source.replace("../runs", str(tmp_path))
    resources = {"metadata": {"path": str(REPOSITORY / "scripts")}}
    nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert (tmp_path / "notebook" / "encoded.png").exists()
    assert len(outputs_of(notebook, "image/png")) == PICTURES
    assert outputs_of(notebook, "text/plain")[0].startswith("Run: 64 images of 64x64 pixels, 6 dimensions")


def test_the_stored_notebook_is_small_and_shows_what_it_made(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) <= 10
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert NOTEBOOK.stat().st_size < 1 << 20
    pictures = outputs_of(notebook, "image/png")
    assert len(pictures) == PICTURES
    for picture in pictures:
        assert np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).std() > 10
    text = text_of(notebook)
    assert len(text) < 4096
    assert "\r" not in text
    assert not re.search(r"(?<![.~\w])/\w+/", text)  # a path on one machine

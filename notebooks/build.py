"""Runs the notebooks and writes them with what they put out: `make notebooks`.

The sources are the `.py` files (jupytext, py:percent); each becomes an `.ipynb`
beside it. Without arguments all are built:

    python notebooks/build.py [notebooks/01_layers.py ...]
"""

import base64
import io
import pathlib
import sys

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent


def build(source):
    """Runs one notebook from its source, and writes it if nothing failed."""
    notebook = jupytext.read(source)
    kernel = {"name": "python3", "display_name": "Python 3"}
    notebook.metadata = {"kernelspec": {**kernel, "language": "python"}}
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": FOLDER}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    tidy(notebook)
    nbformat.validate(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def tidy(notebook):
    """Takes out what differs from run to run, and makes pictures smaller."""
    for number, cell in enumerate(notebook.cells):
        # Random as they come; so they would differ each time.
        cell.id = f"cell-{number:02}"
        if cell.cell_type == "code":
            # TensorFlow's log: the processor, process numbers, paths.
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr"
            ]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    shrink(output.data)


def shrink(data):
    """Grids of samples are noisy: as PNG they take several times a JPEG."""
    png = base64.b64decode(data["image/png"])
    file = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.save(file, "JPEG", quality=92, subsampling=0)
    if 2 * file.tell() < len(png):
        del data["image/png"]
        data["image/jpeg"] = base64.b64encode(file.getvalue()).decode()


if __name__ == "__main__":
    sources = [pathlib.Path(name).resolve() for name in sys.argv[1:]]
    for source in sources or sorted(FOLDER.glob("[0-9]*.py")):
        print(source.name, flush=True)
        build(source)

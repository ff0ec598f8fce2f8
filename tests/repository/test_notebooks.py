"""The notebooks run in their quick setting, and are what their sources say."""

import pathlib

import keras
import pytest
from helpers import run_script

# The environments of Torch and JAX are made without them.
jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")

FOLDER = pathlib.Path(__file__).parents[2] / "notebooks"
FILES = {  # what each promises to write
    "01_layers": "squeeze actnorm permutations coupling moons moons_loss split",
    "02_train_mnist": "data curve samples digits mnist.keras",
    "03_train_faces": "curve epochs temperatures upside_down faces.keras",
    "04_permutations": "curves samples singular_values long_curves "
    "invertible_conv.keras",
    "05_latent_space": "interpolation interpolation_temperature projections "
    "blend_and_walk bright level_temperatures levels_drawn_anew inpainted "
    "convergence",
    "06_context": "answers",
}
SIZE_LIMIT = 1.5 * 2**20  # bytes


def test_every_notebook_is_tested():
    for suffix in (".py", ".ipynb"):
        found = {path.stem for path in FOLDER.glob(f"[0-9]*{suffix}")}
        assert found == set(FILES)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend runs them"
)
@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_notebook_runs(name, tmp_path):
    run_script(
        FOLDER / f"{name}.py",
        tmp_path,
        KERAS_GLOW_QUICK="1",
        KERAS_GLOW_DATA=str(tmp_path),  # none: the stand-ins are used
        MPLBACKEND="Agg",
    )
    for file in FILES[name].split():
        path = tmp_path / "runs" / name / file
        path = path if path.suffix else path.with_suffix(".png")
        assert path.stat().st_size > 2000, path.name


@pytest.mark.parametrize("name", FILES)
def test_notebook_matches_its_source(name):
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < SIZE_LIMIT
    notebook = nbformat.read(path, as_version=4)
    source = jupytext.read(path.with_suffix(".py"))
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not any(output.output_type == "error" for output in outputs)

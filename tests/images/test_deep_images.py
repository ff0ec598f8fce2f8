"""Images of more than 8 bits, and of floats: from files to a model and back."""

import csv
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

import keras_glow
from keras_glow import images
from keras_glow.cli.main import main

pytestmark = pytest.mark.usefixtures("untraced_module")
TRAIN = ["--epochs=1", "--levels=1", "--depth=1", "--width=4", "--warmup=0"]


def deep(count=6, bits=12, size=8):
    """Smooth grey images, uint16, that span their bits."""
    ramp = np.linspace(0, 1, size) ** np.linspace(0.5, 2, count)[:, None]
    pixels = ramp[:, None, :] * np.linspace(0.3, 1, size)[:, None]
    return np.rint(pixels * (2**bits - 1)).astype("uint16")[..., None]


@pytest.fixture(scope="module", params=[".png", ".tiff"])
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("deep")
    for i, image in enumerate(deep()):
        Image.fromarray(image[..., 0]).save(place / f"{i}{request.param}")
    return place


def test_files_of_16_bits_are_taken_as_they_are(folder, tmp_path):
    loaded = images.load_images(folder, 8, channels=1, bits=12)
    assert loaded.dtype == "uint16"
    assert_array_equal(loaded, deep())
    cache = tmp_path / "images.npy"
    for _ in range(2):
        cached = images.load_images(folder, 8, 1, cache=cache, bits=12)
        assert isinstance(cached, np.memmap)
        assert_array_equal(cached, deep())
    # The same files with 8 bits are other pixels.
    assert images.load_images(folder, 8, 1, cache=cache).dtype == "uint8"
    small = images.load_images(folder, 4, channels=1, bits=12)
    means = deep().reshape(6, 4, 2, 4, 2).mean((2, 4))[..., None]
    assert_allclose(small, means, atol=200)
    assert_array_equal(
        images.load_image(next(folder.glob("0.*")), 8, 1, bits=12), deep()[0]
    )


def test_what_a_folder_cannot_hold_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match="read with 1 channel.*bits=12"):
        images.load_images(folder, 8, bits=12)
    with pytest.raises(ValueError, match="image files hold no floats"):
        images.load_images(folder, 8, bits=None)
    with pytest.raises(ValueError, match=r"up to|expected 0\.\.1023"):
        images.load_images(folder, 8, 1, bits=10)
    report = images.check_data(folder, 8, 1, bits=10)
    assert len(report.bad) == 6
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="grey with more than 8 bits.*mode L"):
        images.load_images(tmp_path, 8, 1, bits=12)


def test_arrays_are_taken_with_their_bits(tmp_path):
    floats = np.random.default_rng(0).normal(size=(4, 8, 8, 5))
    np.save(tmp_path / "floats.npy", floats.astype("float32"))
    np.savez(tmp_path / "floats.npz", images=floats)
    np.savez(tmp_path / "deep.npz", x_train=deep()[..., 0])
    loaded = images.load_images(tmp_path / "floats.npy", None, bits=None)
    assert isinstance(loaded, np.memmap)
    assert_array_equal(loaded, floats.astype("float32"))
    loaded = images.load_images(tmp_path / "floats.npz", 8, bits=None)
    assert_array_equal(loaded, floats)
    loaded = images.load_images(tmp_path / "deep.npz", None, bits=12)
    assert_array_equal(loaded, deep())
    for name, bits, said in (
        ("floats.npy", 8, "uint8.*for bits=8.*float32"),
        ("floats.npz", 12, "uint16.*for bits=12.*float64"),
        ("deep.npz", 8, "uint8.*for bits=8.*uint16"),
        ("deep.npz", None, "float32.*for bits=None.*uint16"),
    ):
        with pytest.raises(ValueError, match=said):
            images.load_images(tmp_path / name, None, bits=bits)
    with pytest.raises(ValueError, match="16x16: only uint8 is resized"):
        images.load_images(tmp_path / "deep.npz", 16, bits=12)
    with pytest.raises(ValueError, match="expected to hold one of labels"):
        images.load_labels(tmp_path / "floats.npy")


def test_check_data_finds_values_that_no_model_takes(tmp_path, capsys):
    floats = np.zeros((3, 8, 8, 1), "float32")
    floats[1, 2, 3] = np.nan
    np.save(tmp_path / "floats.npy", floats)
    assert (
        main(["check-data", str(tmp_path / "floats.npy"), "--bits=none"]) == 1
    )
    said = capsys.readouterr()
    assert "holds 1 images with values not finite" in said.out
    np.save(tmp_path / "deep.npy", deep())
    assert main(["check-data", str(tmp_path / "deep.npy"), "--bits=12"]) == 0
    assert main(["check-data", str(tmp_path / "deep.npy"), "--bits=10"]) == 1
    assert "values not in 0..1023" in capsys.readouterr().out


def test_a_folder_of_16_bits_trains_from_the_command_line(
    folder, tmp_path, capsys
):
    run = tmp_path / "run"
    assert (
        main(
            [
                "train",
                str(folder),
                f"--out={run}",
                "--size=8",
                "--bits=12",
                *TRAIN,
            ]
        )
        == 0
    )
    model = str(run / "model.keras")
    assert keras_glow.load_model(model).bits == 12
    capsys.readouterr()
    assert main(["evaluate", model, str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bits"] == 12
    out = tmp_path / "samples"
    assert main(["sample", model, "--count=1", f"--out={out}"]) == 0
    with Image.open(out / "sample_0000.png") as image:
        assert_array_equal(
            np.asarray(image)[..., None],
            keras_glow.load_model(model).sample(1, seed=0)[0],
        )
    assert main(["score", model, str(folder)]) == 0
    assert "complexity" in capsys.readouterr().out
    grid = tmp_path / "map.png"
    assert main(["interpolate", model, f"--grid={grid}"]) == 0
    assert main(["evaluate", model, str(folder), f"--map={grid}"]) == 0
    assert grid.exists()


def test_an_array_of_floats_trains_from_the_command_line(tmp_path, capsys):
    run, data = tmp_path / "run", tmp_path / "floats.npy"
    floats = np.random.default_rng(0).normal(9, 2, size=(8, 4, 4, 5))
    np.save(data, floats.astype("float32"))
    other = tmp_path / "other.npy"
    np.save(other, floats.astype("float32") + 1)
    assert (
        main(
            ["train", str(data), f"--out={run}", "--bits=none", *TRAIN]
            + [f"--validation={other}"]
        )
        == 0
    )
    assert "nats/dim" in capsys.readouterr().out
    model = str(run / "model.keras")
    assert (run / "best.keras").exists()
    assert main(["evaluate", model, str(data)]) == 0
    assert "nats/dim (8 images, 1 draws, floats)" in capsys.readouterr().out
    assert main(["evaluate", model, str(data), "--json"]) == 0
    assert "nats_per_dim" in json.loads(capsys.readouterr().out)
    grid = tmp_path / "grid.png"
    assert main(["sample", model, f"--grid={grid}"]) == 0
    assert main(["evaluate", model, str(data), f"--map={grid}"]) == 0
    assert main(["doctor", model, str(data)]) == 0
    assert "come back to rounding" in capsys.readouterr().out
    assert main(["score", model, str(data)]) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert set(rows[0]) == {"file", "nats_per_dim", "typicality"}
    worst = [float(row["typicality"]) for row in rows]
    assert worst == sorted(worst, reverse=True)
    found = keras_glow.latent.anomaly_score(
        keras_glow.load_model(model), floats, "likelihood"
    )
    by_row = {int(row["file"]): float(row["nats_per_dim"]) for row in rows}
    assert_allclose([by_row[i] for i in range(8)], found, atol=1e-4)
    for command in ("interpolate", "walk"):
        animation = tmp_path / f"{command}.webp"
        assert main([command, model, "--steps=2", f"--out={animation}"]) == 0
    assert main(["info", model]) == 0
    assert "bits: None" in capsys.readouterr().out

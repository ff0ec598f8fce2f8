"""What images are given at the command line: `--context`."""

import csv
import json
import re

import numpy as np
import pytest
from PIL import Image
from support.helpers import random_images

import keras_glow
from keras_glow.cli.main import main

SMALL = ["--epochs=1", "--levels=1", "--depth=1", "--width=4", "--warmup=0"]
ROOM = np.random.default_rng(0).normal(size=(6, 2)).round(3).astype("float32")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder of images, a table beside it, and a model trained on both."""
    folder = tmp_path_factory.mktemp("context")
    (folder / "faces").mkdir()
    images = random_images(6, (4, 4, 3))
    table = ["file,warmth,light"]
    for i, (image, row) in enumerate(zip(images, ROOM, strict=True)):
        Image.fromarray(image).save(folder / "faces" / f"{i}.png")
        table.append(f"{i}.png,{row[0]},{row[1]}")
    (folder / "table.csv").write_text("\n".join(table))
    data = ["train", str(folder / "faces"), "--size=4", *SMALL]
    data += [f"--context={folder / 'table.csv'}", "--validation=20%"]
    assert main([*data, f"--out={folder / 'run'}"]) == 0
    np.savez(folder / "faces.npz", images=images, rooms=ROOM)
    return folder, keras_glow.load_model(folder / "run" / "model.keras"), images


def test_a_table_and_an_array_give_the_same(run, capsys):
    folder, model, images = run
    assert model.context_shape == (2,)
    own = -model.log_prob(images, seed=0, context=ROOM) / np.log(2) / 48
    file = str(folder / "run" / "model.keras")
    for data, context in (
        ("faces", str(folder / "table.csv")),
        ("faces.npz", "rooms"),
    ):
        given = [str(folder / data), f"--context={context}"]
        capsys.readouterr()
        assert main(["evaluate", file, *given, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["bits_per_dim"]
        np.testing.assert_allclose(found, own.mean(), rtol=1e-5)
        assert main(["score", file, *given]) == 0
        rows = csv.DictReader(capsys.readouterr().out.splitlines())
        found = sorted(float(row["bits_per_dim"]) for row in rows)
        np.testing.assert_allclose(found, sorted(own), atol=1e-4)
        assert main(["doctor", file, *given]) == 0


def test_images_are_drawn_and_moved_given_a_context(run, tmp_path):
    folder, model, images = run
    file, out = str(folder / "run" / "model.keras"), tmp_path / "drawn.png"
    numbers = "--context=" + ",".join(map(str, ROOM[1]))
    np.save(tmp_path / "two.npy", ROOM[:2])
    faces = [str(folder / "faces" / f"{i}.png") for i in (0, 1)]
    each = f"--context={tmp_path / 'two.npy'}"
    assert main(["sample", file, numbers, f"--out={tmp_path}"]) == 0
    with Image.open(tmp_path / "sample_0000.png") as drawn:
        expected = model.sample(16, seed=0, context=ROOM[1])[0]
        np.testing.assert_array_equal(np.asarray(drawn), expected)
    assert main(["reconstruct", file, *faces, each, f"--grid={out}"]) == 0
    ends = ["--steps=2", f"--grid={out}"]
    assert main(["interpolate", file, *faces, each, *ends]) == 0
    with Image.open(out) as drawn:  # its ends are the images
        picture = keras_glow.images.image_grid(images[:2], columns=2)
        np.testing.assert_array_equal(np.asarray(drawn), picture)
    assert main(["walk", file, faces[0], numbers, *ends]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "{model}", "{npz}"], "--context.*given for this model"),
        (["evaluate", "{model}", "{npz}", "--context=no"], "expected to hold"),
        (["sample", "{model}", "--grid=a.png"], "--context"),
        (["sample", "{model}", "--grid=a.png", "--context=1"], r"\(2,\)|2\)"),
        (
            ["walk", "{model}", "--grid=a.png", "--context=a,b"],
            "cannot be read",
        ),
        (["interpolate", "{model}", "--grid=a.png"], "--context"),
        (["train", "{npz}", "--out=new", "--context=no"], "expected to hold"),
    ],
)
def test_a_bad_context_is_refused_in_one_line(
    run, tmp_path, monkeypatch, capsys, arguments, said
):
    folder, *_ = run
    monkeypatch.chdir(tmp_path)
    names = {
        "model": folder / "run" / "model.keras",
        "npz": folder / "faces.npz",
    }
    assert main([text.format(**names) for text in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line

"""`keras-glow check-data`, and what `train` says of bad files."""

import json

import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_array_equal
from PIL import Image

from keras_glow.cli import run as training
from keras_glow.cli.main import main

COUNT = 6


@pytest.fixture
def faces(tmp_path):
    path = tmp_path / "faces"
    (path / "more").mkdir(parents=True)
    for i, face in enumerate(random_images(COUNT, (16, 16, 3))):
        Image.fromarray(face).save(path / "more" / f"{i}.png")
    return path


def spoil(folder):
    """One of each: bad, skipped, with a note, twice there, no image."""
    (folder / "text.jpg").write_text("no image")
    (folder / "new\nline.png").write_bytes(b"")
    (folder / "link.png").symlink_to(folder.parent)
    (folder / "notes.txt").write_text("no image")
    Image.new("RGB", (16, 40)).save(folder / "high.png")
    (folder / "twice.png").write_bytes((folder / "more/0.png").read_bytes())


def test_all_is_well(faces, capsys):
    assert main(["check-data", str(faces), "--size=16"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == "6 images"
    assert not captured.err


def test_everything_is_reported(faces, capsys):
    spoil(faces)
    assert main(["check-data", str(faces), "--size=16"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-5:] == [
        "bad: " + repr(f"{faces}/new\nline.png") + " is empty",
        f"bad: {faces}/text.jpg is not an image "
        "(BMP, GIF, JPEG, PNG, TIFF, WEBP)",
        f"skipped: {faces}/link.png is a link that leads out of the folder",
        f"note: {faces}/high.png is 16x40: its middle square is taken",
        "8 images, 2 cannot be used, 1 skipped, 1 the same as another, "
        "1 with a note, 1 other files",
    ]
    (line,) = captured.err.splitlines()
    assert line == f"keras-glow: error: 2 files in {faces} cannot be used"


def test_json(faces, capsys):
    spoil(faces)
    assert main(["check-data", str(faces), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 8 and report["duplicates"] == 1
    assert [name for name, _ in report["bad"]] == ["new\nline.png", "text.jpg"]


def test_small_images(faces, capsys):
    assert main(["check-data", str(faces), "--size=32"]) == 1
    assert capsys.readouterr().out.count("smaller than 32x32, and `up") == 6
    assert main(["check-data", str(faces), "--size=32", "--upscale"]) == 0
    assert "6 images, 6 with a note" in capsys.readouterr().out


@pytest.mark.parametrize("count, message", [(0, "holds none"), (1, "one only")])
def test_too_few(count, message, tmp_path, capsys):
    for i in range(count):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    assert main(["check-data", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    out = str(tmp_path / "run")
    assert main(["train", str(tmp_path), "--size=8", "--out", out]) == 1
    assert message in capsys.readouterr().err


def test_npz(tmp_path, capsys):
    path = tmp_path / "faces.npz"
    np.savez(path, images=random_images(5, (8, 8, 3)))
    assert main(["check-data", str(path), "--size=8"]) == 0
    assert capsys.readouterr().out == "5 images\n"
    assert main(["check-data", str(path), "--size=16"]) == 0
    assert "holds images of 8x8: resized to 16x16" in capsys.readouterr().out
    np.savez(path, images=random_images(5, (8, 8, 3)) / 255)
    assert main(["check-data", str(path)]) == 1
    assert "faces.npz is expected to be uint8" in capsys.readouterr().err
    assert main(["check-data", str(tmp_path / "absent")]) == 1
    assert "absent is expected to be a folder" in capsys.readouterr().err


def test_train_stops_at_bad_files_unless_told_to_skip(
    faces, tmp_path, monkeypatch, capsys
):
    spoil(faces)
    trained_on = []
    monkeypatch.setattr(
        training,
        "train",
        lambda out, images, *_, **__: trained_on.append(images),
    )
    arguments = [
        "train",
        str(faces),
        "--size=8",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 of 10 files" in line and not trained_on
    assert repr(f"{faces}/new\nline.png") in line
    assert f"{faces}/text.jpg is not an image" in line
    assert main([*arguments, "--on-bad=skip"]) == 0
    (images,) = trained_on
    assert images.shape == (8, 8, 8, 3) and isinstance(images, np.memmap)
    assert_array_equal(images, np.load(tmp_path / "run" / "images.npy"))
    assert "8 images, 2 cannot be used" in capsys.readouterr().out
    assert main([*arguments[:3], "--out", str(faces)]) == 1
    assert "--out is expected" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check-data", "train", "evaluate"])
def test_help_names_the_option(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert "--upscale" in capsys.readouterr().out

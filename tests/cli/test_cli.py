"""The command line, on real files, in processes of its own where it matters."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import weakref

import keras
import numpy as np
import pytest
from helpers import WITHOUT_BACKEND, move_weights, random_images
from numpy.testing import assert_array_equal
from PIL import Image

import keras_glow
from keras_glow import Glow, backend, latent, load_model
from keras_glow.callbacks import SampleGrid
from keras_glow.cli import inputs, models
from keras_glow.cli import main as main_module
from keras_glow.cli import run as cli_run
from keras_glow.cli.demo import read_directions, write_directions
from keras_glow.cli.main import main
from keras_glow.cli.settings import default_settings, fitted_to
from keras_glow.conversion import FORMATS
from keras_glow.flow import choices
from keras_glow.images import image_grid
from keras_glow.layers import flow_step
from keras_glow.layers.affine_coupling import SCALE_FUNCTIONS
from keras_glow.layers.chain import MEMORY
from keras_glow.layers.coupling import NETWORK_DTYPES, NETWORKS
from keras_glow.training.checkpoint import read_progress

pytestmark = pytest.mark.usefixtures("untraced_module")
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
TRAIN = [
    "--levels=2",
    "--depth=1",
    "--width=8",
    "--epochs=2",
    "--batch-size=16",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a trained run, and the images that it was trained on."""
    folder = tmp_path_factory.mktemp("cli")
    faces = random_images(60, (8, 8, 3))
    for i, face in enumerate(faces):
        (folder / "faces").mkdir(exist_ok=True)
        Image.fromarray(face).save(folder / "faces" / f"{i:02d}.png")
    np.savez(folder / "test.npz", images=255 - faces[:20])
    arguments = [
        *("train", str(folder / "faces"), "--size=8", *TRAIN, "--flip"),
        *("--validation", str(folder / "test.npz")),
        *("--out", str(folder / "run")),
    ]
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main([*arguments, "--resume"]) == 0
    (folder / "said.txt").write_text(said.getvalue())
    return folder, arguments


def rows(folder):
    with open(folder / "run" / "history.csv") as file:
        return list(csv.DictReader(file))


def test_train_leaves_model_history_and_samples(run):
    folder, _ = run
    history = rows(folder)
    assert [row["epoch"] for row in history] == ["0", "1"]
    for name in ("loss", "bits_per_dim", "val_bits_per_dim"):
        assert all(float(row[name]) > 0 for row in history)
    assert sorted(p.name for p in (folder / "run" / "samples").iterdir()) == [
        "epoch_0001.png",
        "epoch_0002.png",
        "latest.png",
    ]
    with Image.open(folder / "run" / "samples" / "latest.png") as image:
        assert image.size == (8 * 130 + 2, 3 * 130 + 2)  # 16 times as large
    with Image.open(folder / "run" / "curve.png") as image:
        assert image.size == (900, 520)
    best = load_model(folder / "run" / "best.keras")
    assert best.image_shape == (8, 8, 3)
    model = keras.saving.load_model(folder / "run" / "model.keras")
    assert model.image_shape == (8, 8, 3)
    # It was to resume what had never begun.
    assert "starting anew" in (folder / "said.txt").read_text()


def test_a_second_run_needs_another_folder(run, capsys):
    _, arguments = run
    assert main(arguments) == 1
    assert "--resume" in capsys.readouterr().err


@pytest.mark.slow  # test_checkpoint.py has it without the command line
def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path, capsys):
    folder, arguments = run
    other = [*arguments[:-1], str(tmp_path / "run")]

    class Killed(BaseException):
        pass

    draw = SampleGrid._draw

    def kill(self, path):
        if path.name == "epoch_0002.png":
            raise Killed
        draw(self, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SampleGrid, "_draw", kill)
        with pytest.raises(Killed):
            main(other)
    # The row that was written after the checkpoint is not kept twice.
    assert len(rows(tmp_path)) == 2
    progress = read_progress(tmp_path / "run" / "checkpoint.keras")
    assert progress.epoch == 1
    assert not (tmp_path / "run" / "model.keras").exists()
    assert main([*other, "--resume"]) == 0
    assert rows(tmp_path) == rows(folder)
    models = [
        keras.saving.load_model(path / "run" / "model.keras")
        for path in (folder, tmp_path)
    ]
    for one, two in zip(models[0].weights, models[1].weights, strict=True):
        assert_array_equal(one.numpy(), two.numpy())
    assert main([*other, "--resume"]) == 0  # already done: nothing changes
    assert rows(tmp_path) == rows(folder)
    capsys.readouterr()
    assert main([*other, "--resume", "--depth=2"]) == 1
    assert "depth (was 1, is 2)" in capsys.readouterr().err


def test_sample(run, tmp_path, capsys):
    model = str(run[0] / "run" / "model.keras")
    grid = tmp_path / "grid.png"
    assert main(["sample", model, "--count=4", f"--grid={grid}"]) == 0
    assert capsys.readouterr().out.strip() == str(grid)
    with Image.open(grid) as image:
        assert image.size == (22, 22)
    out = tmp_path / "out"
    temperature = "--temperature=0.5,1"
    assert (
        main(["sample", model, "--count=3", temperature, f"--out={out}"]) == 0
    )
    files = sorted(out.iterdir())
    assert [f.name for f in files] == [f"sample_000{i}.png" for i in range(3)]
    expected = keras.saving.load_model(model).sample(3, [0.5, 1.0], seed=0)
    for file, sample in zip(files, expected, strict=True):
        with Image.open(file) as image:
            assert_array_equal(np.asarray(image), sample)


def test_evaluate(run, capsys):
    folder, _ = run
    model = str(folder / "run" / "model.keras")
    assert main(["evaluate", model, str(folder / "test.npz"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    test = np.load(folder / "test.npz")["images"]
    expected = keras.saving.load_model(model).bits_per_dim(test, seed=0)
    assert result["bits_per_dim"] == pytest.approx(expected.mean(), rel=1e-6)
    assert result["standard_error"] == pytest.approx(
        expected.std(ddof=1) / np.sqrt(20), rel=1e-5
    )
    assert result["images"] == 20
    assert main(["evaluate", model, str(folder / "faces"), "--draws=2"]) == 0
    assert "bits/dim (60 images, 2 draws, 8 bits)" in capsys.readouterr().out


def test_scores_of_every_file(run, tmp_path, capsys):
    folder, _ = run
    file = str(folder / "run" / "model.keras")
    (tmp_path / "in" / "more").mkdir(parents=True)
    shutil.copy(folder / "faces" / "00.png", tmp_path / "in" / "more")
    for i, image in enumerate(random_images(3, (8, 8, 3), seed=5)):
        Image.fromarray(image).save(tmp_path / "in" / f"{i}, new.png")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), "uint8")
    Image.fromarray(noise).save(tmp_path / "in" / "noise.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"")
    score = ["score", file, str(tmp_path / "in")]
    assert main(score) == 1
    assert "--on-bad skip" in capsys.readouterr().err
    table = tmp_path / "new" / "scores.csv"
    with pytest.warns(UserWarning, match="broken.png is empty"):
        assert main([*score, "--on-bad=skip", f"--csv={table}"]) == 0
    assert capsys.readouterr().out == f"{table}\n"
    (tmp_path / "in" / "broken.png").unlink()
    assert main(score) == 0
    assert capsys.readouterr().out == table.read_text()
    with open(table, newline="") as lines:
        found = list(csv.DictReader(lines))
    assert found[0]["file"] == "noise.png"
    images, names = keras_glow.images.load_images(
        tmp_path / "in", 8, return_names=True
    )
    assert sorted(row["file"] for row in found) == sorted(names)
    model = load_model(file)
    ordered = [float(row["complexity"]) for row in found]
    assert ordered == sorted(ordered, reverse=True)
    for typical in (images, np.load(folder / "test.npz")["images"]):
        for name, method, how in (
            ("bits_per_dim", "likelihood", {}),
            ("typicality", "typicality", {"typical": typical}),
            ("complexity", "complexity", {}),
        ):
            scores = latent.anomaly_score(model, images, method, **how)
            rows_by_name = {row["file"]: float(row[name]) for row in found}
            got = [rows_by_name[name] for name in names]
            np.testing.assert_allclose(got, scores, atol=2e-4)
        assert main([*score, f"--typical={folder / 'test.npz'}"]) == 0
        found = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert main(["score", file, str(folder / "test.npz")]) == 0
    found = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert sorted(int(row["file"]) for row in found) == list(range(20))


def test_evaluate_draws_a_map_beside_each_image(run, tmp_path, capsys):
    folder, _ = run
    model, data = str(folder / "run" / "model.keras"), folder / "test.npz"
    file = tmp_path / "map.png"
    assert main(["evaluate", model, str(data), f"--map={file}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    first = np.load(data)["images"][0]
    height, width, _ = first.shape
    with Image.open(file) as image:
        grid = np.asarray(image)
    assert grid.shape == (4 * (height + 2) + 2, 8 * (width + 2) + 2, 3)
    assert_array_equal(grid[2 : height + 2, 2 : width + 2], first)
    heat = grid[2 : height + 2, width + 4 : 2 * width + 4]
    log_prob_map = keras.saving.load_model(model).log_prob_map(
        np.load(data)["images"][:16], seed=0
    )[0]
    brightest = np.unravel_index(np.argmin(log_prob_map), (height, width))
    assert heat[brightest].min() == heat.max()


def test_reconstruct_and_interpolate(run, tmp_path, capsys):
    folder, _ = run
    model = str(folder / "run" / "model.keras")
    files = [str(folder / "faces" / f"{i:02d}.png") for i in range(3)]
    grid = tmp_path / "grid.png"
    assert main(["reconstruct", model, *files, f"--grid={grid}"]) == 0
    assert capsys.readouterr().out.count(": exact, ") == 3
    with Image.open(grid) as image:
        both = np.asarray(image)
    assert_array_equal(both[2:10], both[12:20])
    line = tmp_path / "line.png"
    assert main(["interpolate", model, *files[:2], f"--grid={line}"]) == 0
    with Image.open(line) as image, Image.open(files[0]) as first:
        assert image.size == (82, 12)
        assert_array_equal(np.asarray(image)[2:10, 2:10], np.asarray(first))
        straight = np.asarray(image)
    options = [f"--grid={line}", "--spherical"]
    assert main(["interpolate", model, *files[:2], *options]) == 0
    with Image.open(line) as image:
        differs = np.any(np.asarray(image) != straight, axis=(0, 2))
    # Both ends are the images; what is between is another way.
    assert not differs[:12].any() and not differs[-12:].any()
    assert differs[12:-12].any()


def frames(path):
    """The frames of an animation in colour, and the seconds of each."""
    with Image.open(path) as image:
        images, seconds = [], []
        for i in range(image.n_frames):
            image.seek(i)
            images.append(np.asarray(image.convert("RGB")))
            seconds.append(image.info["duration"] / 1000)
    return np.stack(images), seconds


def test_animations_of_ways_between_images(run, tmp_path):
    folder, _ = run
    file = str(folder / "run" / "model.keras")
    model = load_model(file)
    faces = [str(folder / "faces" / f"{i:02d}.png") for i in range(3)]
    out = tmp_path / "new" / "way.webp"
    loop = ["--steps=3", "--loop", "--fps=5", f"--out={out}"]
    assert main(["interpolate", file, *faces, *loop]) == 0
    found, seconds = frames(out)
    assert seconds == [0.2] * 7 and found.shape == (7, 256, 256, 3)
    ends = inputs.load_files(model, faces)
    weights = latent.path_weights(3, 2, closed=True)
    expected = model.decode(latent.interpolate(model.encode(ends), weights))
    assert_array_equal(expected[[0, 2, 4, 6]], ends[[0, 1, 2, 0]])
    assert_array_equal(found[:, ::32, ::32], expected)
    grid = ["--steps=3", f"--grid={tmp_path}/way.png"]
    assert main(["interpolate", file, *faces, *grid]) == 0
    rows = [*expected[:3], *expected[2:5]]
    with Image.open(f"{tmp_path}/way.png") as image:
        assert_array_equal(image, image_grid(np.stack(rows), columns=3))
    drawn = ["--count=2", "--seed=3", "--steps=4", f"--out={tmp_path}/way.gif"]
    assert main(["interpolate", file, *drawn]) == 0
    found, _ = frames(tmp_path / "way.gif")
    samples = model.sample(2, seed=3)
    assert_array_equal(found[[0, -1], ::32, ::32], samples)
    assert len(found) == 4


def test_walks_at_random_and_along_a_direction(run, tmp_path, capsys):
    folder, _ = run
    model = load_model(folder / "run" / "model.keras")
    file = shutil.copy(folder / "run" / "model.keras", tmp_path)
    out = str(tmp_path / "walk.webp")
    assert main(["walk", file, "--steps=3", "--seed=2", f"--out={out}"]) == 0
    found, _ = frames(out)
    start = model.sample(1, seed=2)
    z = latent.random_walk(model.encode(start), 2, 0.1, 0.7, 2)
    assert_array_equal(found[:, ::32, ::32], model.decode(z[:, 0]))
    assert_array_equal(found[0, ::32, ::32], start[0])
    along = ["walk", file, "--along=Warm", "--strength=3", "--steps=3"]
    assert main([*along, f"--out={out}"]) == 1
    assert "--directions is expected" in capsys.readouterr().err
    direction = np.random.default_rng(0).normal(size=192).astype("f4")
    write_directions(tmp_path / "model_attributes.npz", {"Warm": direction})
    assert main([*along, "--loop", "--count=2", f"--out={out}"]) == 0
    found, _ = frames(out)
    assert found.shape == (4, 132, 242, 3)  # two beside each other, 11 times
    assert_array_equal(found[1], found[3])
    grid = str(tmp_path / "walk.png")
    assert main([*along, f"--grid={grid}"]) == 0
    with Image.open(grid) as image:
        row = np.asarray(image)[2:10]
    read = read_directions(tmp_path / "model_attributes.npz", 192)["Warm"]
    start = model.sample(1, seed=0)
    expected = latent.apply_direction(model, start, read, [-3.0, 0.0, 3.0])
    for i, image in enumerate(expected[:, 0]):
        assert_array_equal(row[:, 2 + 10 * i : 10 + 10 * i], image)
    assert main(["walk", file, "--along=Cold", f"--grid={grid}"]) == 1
    assert "--along" in capsys.readouterr().err


def test_own_directions(run, tmp_path, capsys):
    folder, _ = run
    file = shutil.copy(folder / "run" / "model.keras", tmp_path)
    model = load_model(file)
    for name, chosen in (("warm", range(4)), ("cold", range(4, 10))):
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in chosen:
            face = folder / "faces" / f"{i:02d}.png"
            shutil.copy(face, tmp_path / "in" / name)
    data, names = keras_glow.images.load_images(
        tmp_path / "in", 8, return_names=True
    )
    warm = np.array([name.startswith("warm") for name in names])
    odd = np.array([int(name[5:7]) % 2 for name in names], bool)
    z = model.encode(data)
    plain = latent.attribute_direction(z, warm)
    apart = latent.attribute_direction(z, warm, odd[:, None])
    found = tmp_path / "model_attributes.npz"

    def directions(*arguments):
        command = ["directions", file, *map(str, arguments)]
        assert main(command) == 0, capsys.readouterr().err
        said = capsys.readouterr().out.splitlines()
        return said, read_directions(said[-1], model.dimensions)

    def check(got, expected):
        np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-3)

    # Two folders: where they are, or in DATA
    folders = (tmp_path / "in" / "warm", tmp_path / "in" / "cold")
    said, sliders = directions("--labels", *folders)
    assert said[-1] == str(found) and list(sliders) == ["warm"]
    assert "warm: 4 images with it, 6 without" in said
    check(sliders["warm"], plain)
    _, sliders = directions(tmp_path / "in", "--labels", "cold", "warm")
    assert list(sliders) == ["cold"]
    check(sliders["cold"], -plain)
    # A table by the names of files, in any order; one of them is not there
    table = tmp_path / "table.csv"
    rows = [
        f"{name[5:] if i % 2 else name};{2 * int(w) - 1};{int(o)};0"
        for i, (name, w, o) in enumerate(zip(names, warm, odd, strict=True))
    ]
    table.write_text("\n".join(["file;Warm;Odd;None", *rows[::-1], "x;1;1;0"]))
    labels = [tmp_path / "in", "--labels", table]
    said, sliders = directions(*labels, "--add")
    assert list(sliders) == ["cold", "Warm", "Odd"]
    assert any("None: left out, since no image has it" in s for s in said)
    check(sliders["Warm"], plain)
    said, sliders = directions(*labels, "--orthogonal")
    check(sliders["Warm"], apart)
    # A column of words says nothing of the others.
    lines = [f"{row[:-2]};album" for row in rows]
    table.write_text("\n".join(["file;Warm;Odd;source", *lines]))
    with pytest.warns(UserWarning, match="no numbers in source"):
        said, sliders = directions(*labels)
    assert list(sliders) == ["Warm", "Odd"]
    check(sliders["Warm"], plain)
    table.write_text("\n".join(["file;Warm", *(r[:-4] for r in rows[1:])]))
    said, _ = directions(*labels)
    assert any(s.startswith("1 images left out") for s in said)
    # An .npz with both
    both = {"images": data, "attributes": np.stack([warm, odd], 1)}
    np.savez(tmp_path / "all.npz", **both, attribute_names=["Warm", "Odd"])
    out = tmp_path / "odd.npz"
    one = ["--attributes=Odd", f"--out={out}"]
    said, sliders = directions(tmp_path / "all.npz", *one)
    assert said[-2].endswith(f"--directions {out}")
    check(sliders["Odd"], latent.attribute_direction(z, odd))
    before = found.read_bytes()
    (tmp_path / "short.csv").write_text("file,a\n00.png,1,2\n")
    (tmp_path / "words.csv").write_text("file,a\n\n00.png,yes\n")
    (tmp_path / "mixed.csv").write_text("file,a\n00.png,1\n01.png,yes\n")
    (tmp_path / "other.csv").write_text("file,a\nother.png,1\n")
    (tmp_path / "head.csv").write_text("file\n00.png\n")
    (tmp_path / "many.csv").write_text("file,a\n00.png,7\n")
    for arguments, message in (
        (["faces32", tmp_path / "in", "--labels", table], "--out"),
        ([file], "DATA"),
        ([file, tmp_path / "in"], "--labels"),
        ([file, tmp_path / "in", "--labels", "a", "b", "c"], "not 3"),
        ([file, tmp_path / "in", "--labels", "warm", "hot"], "hot is no"),
        ([file, *labels, "--attributes=Warm,Hot"], "--attributes.*Hot"),
        ([file, *labels, "--out=sliders.csv"], "--out"),
        ([file, tmp_path / "all.npz", "--labels", "absent.csv"], "absent.csv"),
        ([file, folder / "test.npz"], "attributes"),
        *(
            ([file, tmp_path / "in", "--labels", tmp_path / name], message)
            for name, message in (
                ("short.csv", "1 numbers.* line 2"),
                ("words.csv", "1 numbers.* line 3"),
                ("mixed.csv", "1 numbers.* line 3"),
                ("other.csv", "rows.*such as.*png.*other.png"),
                ("head.csv", "two columns"),
                ("many.csv", "0 and 1"),
            )
        ),
    ):
        assert main(["directions", *map(str, arguments)]) == 1
        error = capsys.readouterr().err.strip()
        assert re.search(message, error), error
        assert "\n" not in error
    assert found.read_bytes() == before


def test_one_image_has_no_standard_error(run, tmp_path, capsys):
    folder, _ = run
    np.savez(tmp_path / "one.npz", images=random_images(1, (8, 8, 3)))
    evaluate = ["evaluate", str(folder / "run" / "model.keras")]
    evaluate.append(str(tmp_path / "one.npz"))
    assert main([*evaluate, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["standard_error"] is None
    assert main(evaluate) == 0
    assert re.search(r"\d bits/dim \(1 images", capsys.readouterr().out)


@pytest.fixture
def animals(tmp_path):
    """A folder with a folder for each class, one bright and one dark."""
    faces = random_images(20, (8, 8, 3)) // 3
    for i, face in enumerate(faces):
        name = tmp_path / "animals" / ("cats", "dogs")[i % 2] / f"{i:02d}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face + 150 * (i % 2)).save(name)
    return str(tmp_path / "animals")


def test_folders_are_classes_if_asked(animals, tmp_path, capsys):
    (pathlib.Path(animals) / "dogs" / "bad.png").write_bytes(b"text")
    out = str(tmp_path / "run")
    train = ["train", animals, "--size=8", *TRAIN, f"--out={out}"]
    assert main(train) == 1
    assert "bad.png is not an image" in capsys.readouterr().err
    skip = ["--on-bad=skip", "--validation=10%"]
    assert main([*train, *skip, "--classes", "--epochs=1"]) == 0
    said = capsys.readouterr().out
    assert "class 0: cats, 10 images" in said
    assert "class 1: dogs, 10 images" in said
    assert "18 images (8, 8, 3)\n2 images for validation" in said
    assert "--labels 0" in said
    model = load_model(f"{out}/model.keras")
    assert model.num_classes == 2
    # A run that goes on has its classes, its part for validation, and leaves
    # out the same files.
    again = [*train[:3], f"--out={out}", "--resume", "--epochs=2"]
    assert main(again) == 0
    assert "2 images for validation" in capsys.readouterr().out
    assert main(again) == 0
    assert "Finished already" in capsys.readouterr().out
    # Labels follow the names of the folders, in whatever folder they are.
    shutil.move(f"{animals}/cats", tmp_path / "others" / "cats")
    evaluate = ["evaluate", f"{out}/model.keras", "--json"]
    with pytest.warns(UserWarning, match="Left out: 1 of 11 files"):
        assert main([*evaluate, animals, "--on-bad=skip"]) == 0
    bits = json.loads(capsys.readouterr().out)["bits_per_dim"]
    loaded = keras_glow.images.load_images(tmp_path / "others" / "cats", 8)
    assert main([*evaluate, str(tmp_path / "others")]) == 0
    expected = load_model(f"{out}/model.keras").bits_per_dim(
        loaded, seed=0, labels=np.zeros(len(loaded), int)
    )
    other = json.loads(capsys.readouterr().out)["bits_per_dim"]
    assert other == pytest.approx(expected.mean(), rel=1e-6)
    assert bits != other
    (tmp_path / "others" / "cats").rename(tmp_path / "others" / "birds")
    for arguments, message in (
        ([*evaluate, str(tmp_path / "others")], "birds.*classes cats, dogs"),
        ([*evaluate, str(tmp_path / "others/birds")], "folder of its class"),
        ([*again, "--validation=20%"], "held_out|cats"),
    ):
        assert main(arguments) == 1
        assert re.search(message, capsys.readouterr().err)


def test_what_is_trained_on_does_not_validate(animals, tmp_path, capsys):
    (pathlib.Path(animals) / "birds").mkdir()
    train = ["train", animals, "--size=8", *TRAIN, "--epochs=1"]
    train += [f"--out={tmp_path / 'run'}"]
    with pytest.warns(UserWarning, match="20 of 20 images.*trained on as well"):
        assert main([*train, "--validation", animals]) == 0
    assert "They lie in 2 folders: with --classes" in capsys.readouterr().out
    train[-1] += "2"
    with pytest.raises(SystemExit):
        main([*train, "--validation=100%"])
    assert "over 0% and under 100%" in capsys.readouterr().err
    for labels, message in (
        (np.zeros(4, int), "two classes or more.*Received: 1"),
        (np.ones(4), "integers from 0.*float64"),
    ):
        images = random_images(4, (8, 8, 3))
        np.savez(tmp_path / "x.npz", images=images, labels=labels)
        train[1] = str(tmp_path / "x.npz")
        assert main([*train, "--classes"]) == 1
        assert re.search(message, capsys.readouterr().err)


def test_images_that_are_not_square(tmp_path, capsys):
    images = random_images(40, (16, 8, 3))
    np.savez(tmp_path / "train.npz", images=images[:32])
    np.savez(tmp_path / "test.npz", images=images[32:])
    train, test = (str(tmp_path / f"{n}.npz") for n in ("train", "test"))
    out = tmp_path / "run"
    arguments = [*TRAIN, "--epochs=1", f"--validation={test}", f"--out={out}"]
    assert main(["train", train, *arguments]) == 0
    model = str(out / "model.keras")
    assert main(["evaluate", model, test]) == 0
    assert main(["doctor", model, test]) == 0
    (tmp_path / "faces").mkdir()
    for command in (["evaluate", "faces"], ["reconstruct", "a.png"]):
        file = str(tmp_path / command[1])
        assert main([command[0], model, file]) == 1
        assert "square" in capsys.readouterr().err


def test_a_model_with_classes(tmp_path, capsys):
    model = Glow((8, 8, 1), levels=2, depth=1, width=8, num_classes=3)
    for layer in model.bijections:
        if hasattr(layer, "num_classes"):  # or the classes are all the same
            move_weights(layer, 0.1)
    file = str(tmp_path / "model.keras")
    model.save(file)
    images = random_images(6, (8, 8, 1))
    labels = np.array([0, 1, 2, 0, 1, 2])
    data = str(tmp_path / "data.npz")
    np.savez(data, x_test=images[..., 0], y_test=labels, y_train=labels[:2])
    assert main(["evaluate", file, data, "--json"]) == 0
    bits = json.loads(capsys.readouterr().out)["bits_per_dim"]
    expected = [
        model.bits_per_dim(images, seed=0, labels=(labels + n) % 3).mean()
        for n in range(2)
    ]
    assert bits == pytest.approx(expected[0], rel=1e-6)
    assert bits != pytest.approx(expected[1], rel=1e-6)
    assert main(["doctor", file, data]) == 0
    faces = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for face, image in zip(faces, images, strict=False):
        Image.fromarray(image[..., 0]).save(face)
    assert main(["reconstruct", file, *faces, "--labels=2,1"]) == 0
    assert capsys.readouterr().out.count(": exact, ") == 2
    grid = str(tmp_path / "grid.png")
    ends = ["--labels=2,1", f"--grid={grid}"]
    assert main(["interpolate", file, *faces, *ends]) == 0
    with Image.open(grid) as image:
        row = np.asarray(image)[2:10]
    assert_array_equal(row[:, 2:10], images[0, ..., 0])
    assert_array_equal(row[:, -10:-2], images[1, ..., 0])
    drawn = ["--labels=1", "--count=1", f"--grid={grid}"]
    assert main(["sample", file, *drawn]) == 0
    with Image.open(grid) as image:
        drawn = np.asarray(image)[2:10, 2:10, None]
    assert_array_equal(drawn, model.sample(1, seed=0, labels=1)[0])
    capsys.readouterr()
    np.savez(data, x_test=images[..., 0])
    for arguments, message in (
        (["evaluate", file, data], "data.npz.*y_test"),
        (["doctor", file, str(tmp_path)], "a.png.*folder of its class"),
        (["reconstruct", file, *faces], "--labels.*0..2.*2 joined"),
        (["reconstruct", file, *faces, "--labels=0,1,2"], "--labels"),
        (["reconstruct", file, *faces, "--labels=3"], "0 to 2"),
        (["sample", "faces32", "--labels=1", f"--grid={grid}"], "--labels"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err.strip()
        assert re.search(message, error), error
        assert "\n" not in error


def test_info(run, capsys):
    assert main(["info", str(run[0] / "run" / "model.keras")]) == 0
    out = capsys.readouterr().out
    assert "image_shape: [8, 8, 3]" in out
    assert "training steps: 8" in out
    assert "latents per level: [96, 96]" in out


def test_help_of_every_command(capsys):
    def help_of(*command):
        with pytest.raises(SystemExit) as exit:
            main([*command, "--help"])
        assert exit.value.code == 0
        return capsys.readouterr().out

    commands = re.findall(r"^    ([a-z-]+)(?: |$)", help_of(), re.MULTILINE)
    assert {"train", "sample", "check-data", "demo"} <= set(commands)
    for command in commands:
        assert f"keras-glow {command}" in help_of(command)


def test_python_m_keras_glow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "keras_glow", "info", "absent.keras"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**WITHOUT_BACKEND, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
    )
    assert done.returncode == 1
    assert "absent.keras does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command, before, after",
    [("train", None, "1"), ("train", "0", "0"), ("sample", None, None)],
)
def test_training_has_onednn(monkeypatch, command, before, after):
    environment = {} if before is None else {ONEDNN: before}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "argv", ["keras-glow", command, "faces"])
    monkeypatch.setattr(main_module, "main", lambda: 3)
    monkeypatch.setattr(main_module, "filter_stderr", lambda: None)
    assert main_module.console() == 3
    assert environment.get(ONEDNN) == after


def test_no_dataset_is_left_to_the_end_of_the_process(monkeypatch):
    """TensorFlow would write two lines about each, after all others."""
    datasets = []

    def leave_one():
        dataset = type("Dataset", (), {})()
        dataset.itself = dataset
        datasets.append(weakref.ref(dataset))

    monkeypatch.setattr(main_module, "main", leave_one)
    monkeypatch.setattr(main_module, "filter_stderr", lambda: None)
    monkeypatch.setattr(os, "environ", {})
    main_module.console()
    assert datasets[0]() is None


@pytest.mark.parametrize(
    "arguments, code, allowed",
    [
        (["--help"], 0, set()),
        (["train", "--help"], 0, set()),
        (["presets"], 0, set()),
        (["completion"], 0, set()),
        ([], 2, set()),
        (["train", "faces", "--epochs=0"], 2, set()),
        (["sample", "faces32", "--grid=a.xyz"], 2, set()),
        (["info", "absent.keras"], 1, {"numpy"}),
        (["info", "mnist"], 0, {"numpy"}),
    ],
)
def test_what_needs_no_backend_imports_none(tmp_path, arguments, code, allowed):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keras_glow", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:])},
    )
    assert done.returncode == code, done.stderr
    lines = done.stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines}
    assert "keras_glow.cli.main" in imported
    heavy = {"numpy", "keras", "tensorflow", "jax", "torch"}
    assert imported & heavy <= allowed


@pytest.mark.skipif(not shutil.which("bash"), reason="it is for bash")
@pytest.mark.parametrize(
    "words, expected",
    [
        (["keras-glow", "tr"], "train"),
        (["keras-glow", "train", "--tensor"], "--tensorboard"),
        (["keras-glow", "sample", "face"], "faces32"),
        (["keras-glow", "presets", "--size"], ""),
    ],
)
def test_the_shell_completes(capsys, words, expected):
    assert main(["completion"]) == 0
    script = capsys.readouterr().out + (
        f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_keras_glow; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == expected


def test_the_options_offer_what_there_is():
    assert set(choices.PERMUTATIONS) == set(flow_step.PERMUTATIONS)
    assert set(choices.COUPLINGS) == set(flow_step.COUPLINGS)
    assert set(choices.SCALES) == set(SCALE_FUNCTIONS)
    assert set(choices.NETWORKS) == set(NETWORKS)
    assert choices.MEMORY == MEMORY
    assert choices.NETWORK_DTYPES == NETWORK_DTYPES
    assert set(models.FORMATS) == set(FORMATS)


def test_info_counts_what_the_model_counts(run, capsys):
    model = run[0] / "run" / "model.keras"
    assert main(["info", str(model)]) == 0
    parameters = keras.saving.load_model(model).count_params()
    assert f"parameters: {parameters:,}\n" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_need_not_know_the_letters_of_a_file(
    run, tmp_path, monkeypatch, encoding
):
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)
    )
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    model, grid = run[0] / "run" / "model.keras", tmp_path / "\ubaa8.png"
    assert main(["sample", str(model), "--count=1", f"--grid={grid}"]) == 0
    absent = str(tmp_path / "\ubaa8\udcff\nb.keras")
    assert main(["info", absent]) == 1
    out.flush(), err.flush()
    assert b"\\ubaa8.png" in out.buffer.getvalue()
    (line,) = err.buffer.getvalue().splitlines()
    assert b"does not exist" in line and b"b.keras" in line


def test_the_command_line_alone_sets_variables_of_the_process():
    package = pathlib.Path(keras_glow.__file__).parent
    writers = [
        path.relative_to(package)
        for path in package.rglob("*.py")
        if re.search(
            r"environ(\[[^]]+\] *=[^=]|\.(setdefault|update|pop))|putenv",
            path.read_text(),
        )
    ]
    assert writers == [pathlib.Path("cli/main.py")]


GRID, FOLDER = "--grid=a.png", "--grid=folder.png"
WRONG_USE = [
    ([], "COMMAND"),
    (["paint"], "paint"),
    (["sample"], "MODEL"),
    (["sample", "{model}"], "--grid --out"),
    (["sample", "{model}", "--grid=a.png", "--out=b"], "--out"),
    (["sample", "{model}", "--grid=a.png", "--colour"], "--colour"),
    (["sample", "{model}", "--grid=a.xyz"], ".png or .jpg, got 'a.xyz'"),
    (["sample", "{model}", "--grid=a.png", "--count=0"], "--count"),
    (["sample", "{model}", "--grid=a.png", "--count=1.5"], "--count.*'1.5'"),
    (["sample", "{model}", "--grid=a.png", "--seed=-1"], "--seed.*'-1'"),
    (["sample", "{model}", "--grid=a.png", f"--seed={2**64}"], "--seed"),
    (["sample", "{model}", "--grid=a.png", "--temperature=nan"], "'nan'"),
    (["sample", "{model}", "--grid=a.png", "--temperature=inf"], "'inf'"),
    (["sample", "{model}", "--grid=a.png", "--temperature=1,hot"], "'hot'"),
    (["sample", "{model}", "--grid=a.png", "--temperature="], "''"),
    (["sample", "{model}", "--grid=a.png", "--labels=1,x"], "--labels.*'x'"),
    (["evaluate", "{model}"], "DATA"),
    (["evaluate", "{model}", "{faces}", "--draws=0"], "--draws.*'0'"),
    (["reconstruct", "{model}"], "IMAGE"),
    (["interpolate", "{model}", "{face}", "{face}"], "--grid"),
    (
        [
            "interpolate",
            "{model}",
            "{face}",
            "{face}",
            GRID,
            "--steps=1",
        ],
        "--steps.*'1'",
    ),
    (["interpolate", "{model}", "--out=a.png"], "--out.*.gif or .webp"),
    (["walk", "{model}"], "--grid --out"),
    (["walk", "{model}", "--out=a.gif", "--fps=0"], "--fps.*'0'"),
    (["directions"], "MODEL"),
    (["info"], "MODEL"),
    (["presets", "faces32"], "faces32"),
    (["train"], "DATA"),
    (["train", "{faces}", "--size=0"], "--size.*'0'"),
    (["train", "{faces}", "--bits=17"], "--bits.*'17'"),
    (["train", "{faces}", "--levels=0"], "--levels.*'0'"),
    (["train", "{faces}", "--levels=31"], "--levels.*'31'"),
    (["train", "{faces}", "--depth=deep"], "--depth.*'deep'"),
    (["train", "{faces}", "--width=-8"], "--width.*'-8'"),
    (["train", "{faces}", "--batch-size=0"], "--batch-size.*'0'"),
    (["train", "{faces}", "--epochs=0"], "--epochs.*'0'"),
    (["train", "{faces}", "--learning-rate=nan"], "--learning-rate.*'nan'"),
    (["train", "{faces}", "--ema=1"], "--ema.*'1'"),
    (["train", "{faces}", "--coupling=none"], "--coupling.*'none'"),
    (["train", "{faces}", "--permutation=mix"], "--permutation.*'mix'"),
    (["train", "{faces}", "--network-dtype=int8"], "--network-dtype.*'int8'"),
    (["train", "{faces}", f"--seed={2**31}"], "--seed.*'2147483648'"),
]
BAD_MODELS = ("absent.keras", "text.txt", "empty.keras", "cut.keras", "folder")
FAILURES = [
    # arguments, what the message names
    *((["info", model], model) for model in BAD_MODELS),
    *((["sample", model, "--grid=new.png"], model) for model in BAD_MODELS),
    *((["evaluate", model, "{faces}"], model) for model in BAD_MODELS),
    *((["reconstruct", model, "{face}"], model) for model in BAD_MODELS),
    (["interpolate", "{model}", "{face}", "--out=a.gif"], "Two images"),
    (["interpolate", "{model}", "--out=text.txt/a.gif"], "text.txt"),
    (["interpolate", "absent.keras", "a", "b", "--grid=new.png"], "absent"),
    (["sample", "folder.keras", "--grid=new.png"], "folder.keras"),
    (["sample", "{model}", FOLDER], "folder.png"),
    (["sample", "{model}", "--grid=text.txt/new.png"], "text.txt"),
    (["sample", "{model}", "--out=text.txt"], "text.txt"),
    (["sample", "{model}", "--grid=new.png", f"--count={10**9}"], "--count"),
    (["sample", "{model}", "--grid=new.png", "--temperature=1,1,1"], "2, one"),
    (["evaluate", "{model}", "absent"], "absent"),
    (["score", "{model}", "absent"], "absent"),
    (["score", "{model}", "{faces}", "--csv=text.txt/new"], "text.txt"),
    (["evaluate", "{model}", "text.txt"], "text.txt"),
    (["evaluate", "{model}", "folder"], "folder"),
    (["evaluate", "{model}", "broken.npz"], "broken.npz"),
    (["evaluate", "{model}", "grey.npz"], "grey.npz"),
    (["reconstruct", "{model}", "absent.png"], "absent.png"),
    (["reconstruct", "{model}", "text.txt"], "text.txt"),
    (["reconstruct", "{model}", "folder"], "folder"),
    (["reconstruct", "{model}", "{face}", FOLDER], "folder.png"),
    (
        ["interpolate", "{model}", "{face}", "text.txt", GRID],
        "text.txt",
    ),
    (
        ["interpolate", "{model}", "{face}", "{face}", FOLDER],
        "folder.png",
    ),
    (["train", "absent", "--size=8"], "absent"),
    (["train", "text.txt", "--size=8"], "text.txt"),
    (["train", "folder", "--size=8"], "folder"),
    (["train", "broken.npz"], "broken.npz"),
    (["train", "{faces}", "--size=8", "--out=text.txt"], "text.txt"),
    (["train", "{faces}", "--size=8", "--out=text.txt/new"], "text.txt"),
    (["train", "{faces}", "--size=8", "--levels=4"], "multiple of .*16"),
    (["train", "absent", "--size=30"], "--size.* multiple of .* 32"),
    (["train", "{faces}", "--out=new"], "--size is expected"),
    (["train", "{faces}", "--size=8", f"--width={10**9}"], "--width"),
    (["train", "{faces}", "--size=8", "--validation=absent"], "absent"),
]


@pytest.mark.parametrize(
    "code, cases, figure",
    [
        (2, WRONG_USE, "wrong uses of the command line told in one line"),
        (1, FAILURES, "failures of the command line told in one line"),
    ],
)
def test_every_command_fails_in_one_line(
    run, code, cases, figure, tmp_path, monkeypatch, capsys, record_property
):
    monkeypatch.chdir(tmp_path)
    # Loading takes longest, so what is there is loaded once.
    monkeypatch.setattr(
        inputs, "load_model", functools.cache(inputs.load_model)
    )
    model, faces = run[0] / "run" / "model.keras", run[0] / "faces"
    (tmp_path / "text.txt").write_text("nothing that can be read")
    (tmp_path / "empty.keras").write_bytes(b"")
    (tmp_path / "cut.keras").write_bytes(model.read_bytes()[:-100])
    (tmp_path / "broken.npz").write_bytes(b"PK no zip")
    np.savez(tmp_path / "grey.npz", images=np.zeros((2, 8, 8, 1), "uint8"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "folder.png").mkdir()
    places = {"model": model, "faces": faces, "face": faces / "00.png"}
    wrong = []
    for arguments, names in cases:
        arguments = [argument.format(**places) for argument in arguments]
        try:
            actual = main(arguments)
        except SystemExit as exit:
            actual = exit.code
        error = capsys.readouterr().err.strip()
        if (
            actual != code
            or not re.search(names, error)
            or not re.match("keras-glow.*: error: ", error)
            or "\n" in error
        ):
            wrong.append(f"{arguments}: {actual} {error}")
    record_property(figure, f"{len(cases) - len(wrong)} of {len(cases)}")
    assert not wrong, "\n".join(wrong)
    pictures = [path for path in tmp_path.rglob("*.png") if path.is_file()]
    assert not pictures


@pytest.mark.parametrize(
    "count, given, epochs, warmup",
    [
        (300, {}, 20, 20),  # 10 steps each
        (24_000, {}, 20, 300),
        (300, {"epochs": 200}, 200, 200),
        (300, {"warmup": 50}, 20, 50),
        (300, {"batch_size": 100}, 67, 20),  # 3 steps each
        (50, {}, 100, 20),
        (50, {"epochs": 20}, 20, 4),
        (300, {"start": "faces32"}, 20, 20),
        (300, {"minutes": 5}, 100_000, 300),
        (2, {"epochs": 1}, 1, 0),
    ],
)
def test_the_settings_of_a_run_follow_from_its_images(
    count, given, epochs, warmup
):
    settings = default_settings(given.get("minutes"))
    settings = dataclasses.replace(settings, **given)
    settings = fitted_to(settings, given, count)
    assert (settings.epochs, settings.warmup) == (epochs, warmup)


@pytest.fixture
def settings_of(run, tmp_path, monkeypatch):
    """Returns the `Settings` of a new run with some options."""
    trained = []
    monkeypatch.setattr(cli_run, "train", lambda *a: trained.append(a))

    def settings_of(*options):
        data = str(run[0] / "test.npz")
        out = f"--out={tmp_path / 'run'}"
        assert main(["train", data, out, *options]) == 0
        return trained.pop()[3]

    return settings_of


def test_a_new_run_has_them(settings_of):
    settings = settings_of()
    assert (settings.epochs, settings.warmup) == (200, 20)


def test_the_settings_of_a_run_of_minutes_follow_from_the_device(
    settings_of, monkeypatch
):
    monkeypatch.setattr(backend, "computes_bfloat16", lambda: False)
    settings = settings_of("--minutes=8")
    assert (settings.width, settings.network_dtype) == (48, None)
    assert settings.depth == [8, 6, 4]
    assert settings_of("--minutes=8", "--levels=2").depth == [8, 6]
    assert settings_of("--minutes=8", "--depth=2").depth == 2
    more = settings_of("--minutes=8", "--levels=5", "--size=32").depth
    assert more == [8, 6, 4, 4, 4]
    monkeypatch.setattr(backend, "computes_bfloat16", lambda: True)
    assert settings_of().network_dtype is None
    for quicker in ("float32", "bfloat16"):
        seconds = iter(
            [[2.0, 3.0], [4.0, 1.0 if quicker == "bfloat16" else 3.0]]
        )
        monkeypatch.setattr(
            cli_run.timeit, "repeat", lambda *a, s=seconds, **k: next(s)
        )
        settings = settings_of("--minutes=8")
        assert (settings.width, settings.network_dtype) == (48, quicker)
    option = "--network-dtype=float16"
    assert settings_of("--minutes=8", option).network_dtype == "float16"
    monkeypatch.setattr(backend, "has_gpu", lambda: True)
    settings = settings_of("--minutes=8", "--depth=9")
    assert (settings.width, settings.depth, settings.dropout) == (96, 9, 0.2)
    settings = settings_of("--minutes=8", "--network=paper")
    assert (settings.network, settings.dropout) == ("paper", 0.0)


def test_a_run_begins_with_the_weights_of_a_model(tmp_path, capsys):
    model = Glow((8, 8, 3), levels=2, depth=1, width=4, seed=1)
    move_weights(model, 0.1)
    model.save(tmp_path / "start.keras")
    start = ["--from", str(tmp_path / "start.keras")]
    images = random_images(8, (16, 16, 3))
    np.savez(tmp_path / "large.npz", images=images)
    np.savez(tmp_path / "small.npz", images=images[:, ::2, ::2])
    slow = ["--epochs", "1", "--batch-size", "8", "--learning-rate", "1e-9"]
    for name, size in (("small", 8), ("large", 16)):
        out = ["--out", str(tmp_path / name), "--size", str(size)]
        data = ["train", str(tmp_path / f"{name}.npz"), *out]
        assert main([*data, *start, *slow]) == 0
        trained = load_model(tmp_path / name / "model.keras")
        assert trained.image_shape == (size, size, 3)
        expected = model.with_arguments(image_shape=(size, size, 3))
        for one, two in zip(
            trained.get_weights(), expected.get_weights(), strict=True
        ):
            np.testing.assert_allclose(one, two, atol=1e-6)
    assert main([*data, "--resume", "--epochs", "2"]) == 0
    # What is larger may have a level more.
    data[-3:] = [str(tmp_path / "deep"), "--size", "16", "--levels", "3"]
    assert main([*data, *start, *slow, "--depth", "1,1,2"]) == 0
    trained = load_model(tmp_path / "deep" / "model.keras")
    assert (trained.levels, trained.depth) == (3, (1, 1, 2))
    # Each class begins as what was there without any.
    labels = np.arange(8) % 2
    np.savez(tmp_path / "labels.npz", images=images[:, ::2, ::2], labels=labels)
    out = ["--out", str(tmp_path / "classes"), "--classes"]
    data = ["train", str(tmp_path / "labels.npz"), *out]
    assert main([*data, *start, *slow]) == 0
    trained = load_model(tmp_path / "classes" / "model.keras")
    np.testing.assert_allclose(
        trained.log_prob(images[:, ::2, ::2], seed=0, labels=labels),
        model.log_prob(images[:, ::2, ::2], seed=0),
        rtol=1e-5,
    )
    labelled = Glow((8, 8, 3), levels=1, depth=1, width=4, num_classes=2)
    labelled.save(tmp_path / "labelled.keras")
    out[1] = str(tmp_path / "again")
    data = ["train", str(tmp_path / "labels.npz"), *out, *slow]
    goes_on = ["--from", str(tmp_path / "labelled.keras")]
    assert main([*data, *goes_on]) == 0
    assert load_model(tmp_path / "again" / "model.keras").num_classes == 2
    capsys.readouterr()
    for wrong, message in (
        ([*start, "--width", "5"], "--width is expected to be that of"),
        ([*start, "--depth", "2,1"], "--depth is expected to be that of"),
        ([*start, "--levels", "1"], "--levels is expected to be that of"),
        (["--from", str(tmp_path / "labelled.keras")], "without classes"),
        (["--from", "faces"], "is no preset"),
    ):
        new = ["--out", str(tmp_path / "new")]
        assert main(["train", str(tmp_path / "small.npz"), *new, *wrong]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new" / "model.keras").exists()

"""Decoded once, reused, and never a wrong or a half file."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import WITHOUT_BACKEND, random_images
from numpy.testing import assert_array_equal
from PIL import Image

from keras_glow import images
from keras_glow.data import ImageSequence, open_inputs
from keras_glow.images import cache as image_cache
from keras_glow.images import folder
from keras_glow.images.decoding import Form
from keras_glow.images.report import Report

COUNT = 20


@pytest.fixture
def faces(tmp_path):
    path = tmp_path / "faces"
    path.mkdir()
    for i, face in enumerate(random_images(COUNT, (8, 8, 3))):
        Image.fromarray(face).save(path / f"{i:02}.png")
    return path


@pytest.fixture
def decoded(monkeypatch):
    """The files that have been decoded."""
    paths = []
    read = folder.read_picture

    def count_and_read(path, *arguments):
        paths.append(path)
        return read(path, *arguments)

    monkeypatch.setattr(folder, "read_picture", count_and_read)
    return paths


def test_it_is_decoded_once_and_mapped(faces, decoded, tmp_path):
    cache = tmp_path / "run" / "images.npy"
    expected = images.load_images(faces, 8)
    decoded.clear()
    first = images.load_images(faces, 8, cache=cache)
    assert len(decoded) == COUNT
    again = images.load_images(faces, 8, cache=cache)
    assert len(decoded) == COUNT
    for loaded in (first, again):
        assert isinstance(loaded, np.memmap)
        assert_array_equal(loaded, expected)
        with pytest.raises(ValueError, match="read-only"):
            loaded[0] = 0
    # An ordinary file of NumPy, and nothing beside it.
    assert_array_equal(np.load(cache), expected)
    assert os.listdir(cache.parent) == ["images.npy"]
    # What training does with it.
    batch = ImageSequence(again, batch_size=COUNT, flip=True)[0][0]
    assert type(batch) is not np.memmap or batch.flags.writeable
    (first,) = open_inputs(again).first(5, seed=0)
    assert first.shape == (5, 8, 8, 3)


@pytest.mark.parametrize("change", ["new", "gone", "renamed", "touched"])
def test_another_folder_is_decoded_anew(change, faces, decoded, tmp_path):
    cache = tmp_path / "images.npy"
    images.load_images(faces, 8, cache=cache)
    decoded.clear()
    file = faces / "03.png"
    if change == "new":
        (faces / "99.png").write_bytes(file.read_bytes())
    elif change == "gone":
        file.unlink()
    elif change == "renamed":
        file.rename(faces / "99.png")
    else:
        os.utime(file, ns=(0, 0))
    loaded = images.load_images(faces, 8, cache=cache)
    assert len(decoded) == len(loaded)
    assert_array_equal(loaded, images.load_images(faces, 8))


def test_other_options_are_decoded_anew(faces, tmp_path):
    cache = tmp_path / "images.npy"
    for options in (
        {"size": 8},
        {"size": 4},
        {"size": 4, "channels": 1},
        {"size": 9, "upscale": True},
    ):
        loaded = images.load_images(faces, **options, cache=cache)
        assert_array_equal(loaded, images.load_images(faces, **options))
    with pytest.raises(ValueError, match="20 of 20 .*`upscale` is off"):
        images.load_images(faces, 9, cache=cache)


def test_a_damaged_cache_is_made_anew(
    faces, decoded, tmp_path, record_property
):
    cache = tmp_path / "images.npy"
    expected = np.array(images.load_images(faces, 8, cache=cache))
    whole = cache.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [b"", b"text", whole[: len(whole) // 2], whole[:-1]]
    # After the header, in which a flip may change nothing that counts.
    for position in rng.integers(128, len(whole), 60):
        flipped = whole[position] ^ (1 << int(rng.integers(8)))
        damaged.append(
            whole[:position] + bytes([flipped]) + whole[position + 1 :]
        )
    for position in range(0, 128, 4):
        flipped = whole[position] ^ 1
        content = whole[:position] + bytes([flipped]) + whole[position + 1 :]
        cache.write_bytes(content)
        assert_array_equal(images.load_images(faces, 8, cache=cache), expected)
    for content in damaged:
        cache.write_bytes(content)
        decoded.clear()
        assert_array_equal(images.load_images(faces, 8, cache=cache), expected)
        assert len(decoded) == COUNT
        assert cache.read_bytes() == whole
    record_property(
        "damaged caches of decoded images that were made anew",
        f"{len(damaged)} of {len(damaged)}",
    )


def test_the_report_is_kept_with_it(faces, decoded, tmp_path):
    (faces / "text.png").write_text("no image")
    (faces / "00.png").write_bytes((faces / "01.png").read_bytes())
    cache = tmp_path / "images.npy"
    first, report = folder.load_folder(faces, Form(8), cache)
    decoded.clear()
    again, kept = folder.load_folder(faces, Form(8), cache)
    assert not decoded
    assert_array_equal(first, again)
    assert len(first) == COUNT
    assert kept.lines() == report.lines() and kept.duplicates == 1
    with pytest.raises(ValueError, match="1 of 21 .*text.png is not an image"):
        images.load_images(faces, 8, cache=cache)
    assert not decoded


def test_a_folder_of_bad_files_leaves_no_cache(tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="1 of 1 files"):
        images.load_images(
            tmp_path / "faces", 8, on_bad="skip", cache=tmp_path / "images.npy"
        )
    assert os.listdir(tmp_path) == ["faces"]


def test_a_run_in_the_folder_is_not_trained_on(faces):
    cache = faces / "run" / "images.npy"
    for _ in range(2):
        assert len(images.load_images(faces, 8, cache=cache)) == COUNT
        Image.new("RGB", (8, 8)).save(cache.parent / "samples.png")
    assert len(images.load_images(faces, 8)) == COUNT + 1


@pytest.mark.parametrize("place", ["file/images.npy", "folder"])
def test_without_a_place_for_it_images_stay_in_memory(place, faces, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.warns(UserWarning, match="cannot be written.*memory"):
        loaded = images.load_images(faces, 8, cache=tmp_path / place)
    assert_array_equal(loaded, images.load_images(faces, 8))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("when", ["writing", "at the end"])
def test_a_full_disk_costs_the_cache_and_no_more(
    when, faces, tmp_path, monkeypatch
):
    cache = tmp_path / "images.npy"
    images.load_images(faces, 4, cache=cache)
    before = cache.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    if when == "writing":
        # The images are not all read yet, which must not hide the warning.
        monkeypatch.setattr(folder, "CHUNK", 5)
        monkeypatch.setattr(image_cache, "_write_header", full)
    else:
        monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left"):
        loaded = images.load_images(faces, 8, cache=cache)
    assert_array_equal(loaded, images.load_images(faces, 8))
    assert cache.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["faces", "images.npy"]


def test_without_locks_each_process_writes_its_own(tmp_path, monkeypatch):
    path = tmp_path / "images.npy"
    faces = random_images(3, (8, 8, 3))
    report = Report("faces", images=2)

    def pixels():
        yield faces[0]
        with monkeypatch.context() as other_process:
            other_process.setattr(os, "getpid", lambda: 0)
            image_cache.write_cache(
                path, "b", faces[2:], faces[2].shape, report
            )
        assert_array_equal(image_cache.open_cache(path, "b")[0], faces[2:])
        yield faces[1]

    image_cache.write_cache(path, "a", pixels(), faces[0].shape, report)
    assert_array_equal(image_cache.open_cache(path, "a")[0], faces[:2])
    assert os.listdir(tmp_path) == ["images.npy"]


# One process killed when its file has all but its name, then two at once.
PREPARE = """
import hashlib, os, signal, sys
from keras_glow.images import folder
from keras_glow.images.decoding import Form

def start(killed):
    process = os.fork()
    if process:
        return process
    if killed:
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
    images, report = folder.load_folder(sys.argv[1], Form(8), sys.argv[2])
    digest = hashlib.sha256(images.tobytes()).hexdigest()
    # At once, or the lines of two processes mix.
    os.write(1, f"{digest} {type(images).__name__}\\n".encode())
    os._exit(0)

def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

assert end(start(True)) == -signal.SIGKILL
(left,) = os.listdir(os.path.dirname(sys.argv[2]))
assert left.endswith(".partial")
assert [end(process) for process in (start(False), start(False))] == [0, 0]
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_processes_that_prepare_the_same_cache(
    faces, tmp_path, record_property
):
    cache = tmp_path / "run" / "images.npy"
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, faces, cache],
        capture_output=True,
        text=True,
        env=WITHOUT_BACKEND,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    one, two = done.stdout.splitlines()
    digest = hashlib.sha256(images.load_images(faces, 8).tobytes()).hexdigest()
    assert one == two == f"{digest} memmap"
    assert os.listdir(cache.parent) == ["images.npy"]
    record_property(
        "processes preparing one cache at once that ended with the same bytes",
        "2 of 2",
    )

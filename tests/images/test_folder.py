"""Every kind of file that a folder may hold, and what becomes of it."""

import os
import pathlib
import socket
import stat
import sys

import numpy as np
import pytest
from helpers import random_images
from image_files import (
    BLACK,
    FACE,
    FILES,
    PNG,
    SIZE,
    Good,
    Ignored,
    Skipped,
    encoded,
)
from numpy.testing import assert_array_equal
from PIL import Image

from keras_glow import images
from keras_glow.images import decoding, folder, split
from keras_glow.images.decoding import BadImage, Form

root = os.name == "posix" and os.geteuid() == 0


def put(content):
    return lambda path: path.write_bytes(content)


def make_link(target):
    """A link beside what it leads to, unless that is a path of its own."""
    return lambda path: path.symlink_to(target)


def link_out(path):
    outside = path.parents[1] / "outside.png"
    outside.write_bytes(PNG)
    path.symlink_to(outside)


def link_within(path):
    # Hidden, so that the link alone counts.
    (path.parent / ".real.png").write_bytes(PNG)
    path.symlink_to(".real.png")


def link_to_folder(path):
    (path.parent / ".faces").mkdir()
    (path.parent / ".faces" / "face.png").write_bytes(PNG)
    path.symlink_to(".faces")


def folder_named_like_an_image(path):
    path.mkdir()
    (path / "face.png").write_bytes(PNG)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as connection:
        before = os.getcwd()
        os.chdir(path.parent)  # the length of its path is limited
        try:
            connection.bind(path.name)
        finally:
            os.chdir(before)


OTHERS = [
    ("pipe.jpg", os.mkfifo, Skipped("is a FIFO")),
    ("pipe", os.mkfifo, Skipped("is a FIFO")),
    ("socket.png", make_socket, Skipped("is a socket")),
    ("a.jpg", folder_named_like_an_image, Skipped("is a folder")),
    ("out.png", link_out, Skipped("leads out of the folder")),
    ("broken.png", make_link("absent.png"), Skipped("leads nowhere")),
    ("loop.png", make_link("loop.png"), Skipped("leads nowhere")),
    ("parent", make_link(".."), Skipped("leads out of the folder")),
    ("itself", make_link("."), Skipped("is a link to a folder")),
    ("faces", link_to_folder, Skipped("is a link to a folder")),
    ("device_link.png", make_link("/dev/zero"), Skipped("leads out of")),
    ("within.png", link_within, Good(FACE, tolerance=0)),
]
CASES = [(name, put(content), outcome) for name, content, outcome in FILES]
CASES += OTHERS


def check_case(parent, name, make, outcome):
    path = parent / name
    path.parent.mkdir(parents=True)
    make(path)
    loaded, report = folder.load_folder(parent, Form(SIZE))
    outcome.check(name, loaded, report)
    assert folder.check_folder(parent, Form(SIZE)) == report
    if isinstance(outcome, Good):
        assert_array_equal(images.load_images(parent, SIZE), loaded)
        assert_array_equal(images.load_image(path, SIZE), loaded[0])
        return
    with pytest.raises(ValueError) as error:
        images.load_images(parent, SIZE)
    (line,) = str(error.value).splitlines()
    # What is ignored is not named: the folder is, and what it should hold.
    text = str(parent if isinstance(outcome, Ignored) else path)
    assert (text if text.isprintable() else repr(text)) in line
    line.encode()  # it can be printed


def test_kinds_of_files(tmp_path, record_property):
    failed = []
    for i, (name, make, outcome) in enumerate(CASES):
        try:
            check_case(tmp_path / str(i) / "faces", name, make, outcome)
        except AssertionError as error:
            failed.append(f"{name!a}: {error}")
    right = len(CASES) - len(failed)
    record_property(
        "kinds of files in a folder handled as documented",
        f"{right} of {len(CASES)}",
    )
    assert not failed, "\n".join(failed)


@pytest.mark.skipif(root, reason="root reads everything")
def test_what_may_not_be_read_is_named(tmp_path):
    (tmp_path / "face.png").write_bytes(PNG)
    (tmp_path / "face.png").chmod(0)
    (tmp_path / "more").mkdir(mode=0)
    report = folder.check_folder(tmp_path, Form(SIZE))
    (tmp_path / "more").chmod(0o700)
    assert report.bad == [
        ("face.png", "cannot be read: Permission denied"),
        ("more", "cannot be read: Permission denied"),
    ]


@pytest.mark.skipif(not root, reason="only root makes devices")
def test_devices_are_skipped(tmp_path):
    os.mknod(tmp_path / "a.png", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
    report = folder.check_folder(tmp_path, Form(SIZE))
    assert report.skipped == [("a.png", "is a device")]


def test_a_file_that_vanishes_or_changes_is_named(tmp_path, monkeypatch):
    actions = {
        "gone.png": lambda path: path.unlink(),
        "changed.png": lambda path: path.write_bytes(PNG + b"more"),
        "pipe.png": lambda path: (path.unlink(), os.mkfifo(path)),
        "replaced.png": lambda path: os.replace(tmp_path / ".new", path),
    }
    for name in actions:
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / ".new").write_bytes(PNG)
    (tmp_path / "stays.png").write_bytes(PNG)
    read = folder.read_picture

    def act_and_read(path, *arguments):
        path = pathlib.Path(path)
        actions.get(path.name, lambda path: None)(path)
        return read(path, *arguments)

    monkeypatch.setattr(folder, "read_picture", act_and_read)
    report = folder.check_folder(tmp_path, Form(SIZE))
    reasons = dict(report.bad)
    assert "does not exist" in reasons.pop("gone.png")
    assert "is not a regular file" in reasons.pop("pipe.png")
    assert "has changed" in reasons.pop("changed.png")
    assert "has changed" in reasons.pop("replaced.png")
    assert not reasons and report.images == 1

    # While it is read: after its identity was taken, before the end.
    decode = decoding._decode

    def grow_and_decode(*arguments):
        with open(tmp_path / "stays.png", "ab") as file:
            file.write(b"more")
        return decode(*arguments)

    monkeypatch.setattr(decoding, "_decode", grow_and_decode)
    with pytest.raises(BadImage, match="changed while it was read"):
        decoding.read_picture(tmp_path / "stays.png")


def test_all_bad_files_are_in_one_report(tmp_path, record_property):
    rng = np.random.default_rng(0)
    bad = set(map(int, rng.choice(1020, 20, replace=False)))
    faces = random_images(1020, (8, 8, 3))
    for i, face in enumerate(faces):
        path = tmp_path / f"{i % 7}" / f"{i:04}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"text" if i in bad else encoded(face))
    with pytest.raises(ValueError, match="20 of 1020 files") as error:
        images.load_images(tmp_path, 8)
    named = [i for i in range(1020) if f"{i:04}.png is not" in str(error.value)]
    assert set(named) == bad
    with pytest.warns(UserWarning, match="Left out: 20 of 1020 files"):
        loaded = images.load_images(tmp_path, 8, on_bad="skip")
    kept = [i for i in range(1020) if i not in bad]
    kept.sort(key=lambda i: (i % 7, i))
    assert_array_equal(loaded, faces[kept])
    record_property(
        "bad files among 1,000 good ones named in one report", "20 of 20"
    )


HEIC_HEAD = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    decoding._formats.cache_clear()
    yield
    decoding._formats.cache_clear()


@pytest.mark.parametrize("name", ["IMG_9.HEIC", "photo", "photo.jpg"])
def test_heic_is_named_where_nothing_reads_it(without_heif, tmp_path, name):
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / name).write_bytes(HEIC_HEAD)
    with pytest.raises(ValueError, match="HEIC.*pip install pillow-heif"):
        images.load_images(tmp_path, SIZE)
    assert folder.check_folder(tmp_path).images == 1


def test_heic_is_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    large = random_images(1, (64, 48, 3))[0]
    heic = pillow_heif.from_pillow(Image.fromarray(large))
    heic.save(tmp_path / "IMG_9.HEIC", quality=-1)
    loaded = images.load_images(tmp_path, 48)[0]
    assert np.abs(loaded.astype(int) - large[8:56]).mean() < 4


def test_names_are_those_of_the_images(tmp_path):
    for name in ("b/1.png", "a/c/2.png", "0.png", "a/bad.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        colour = encoded(np.full((8, 8, 3), len(name), "uint8"))
        content = b"text" if "bad" in name else colour
        (tmp_path / name).write_bytes(content)
    for cache in (None, tmp_path / ".run" / "a.npy", tmp_path / ".run/a.npy"):
        with pytest.warns(UserWarning, match="Left out"):
            loaded, names = images.load_images(
                tmp_path, 8, on_bad="skip", cache=cache, return_names=True
            )
        assert names == ["0.png", "a/c/2.png", "b/1.png"]
        assert loaded[:, 0, 0, 0].tolist() == list(map(len, names))
    np.savez(tmp_path / "a.npz", images=loaded)
    loaded, names = images.load_images(tmp_path / "a.npz", 8, return_names=True)
    assert len(loaded) == 3 and names is None


def test_folders_become_classes():
    names = ["dogs/old/1.png", "cats/1.png", "dogs/2.png"]
    labels, classes = images.class_labels(names)
    assert labels.tolist() == [1, 0, 1] and classes == ["cats", "dogs"]
    labels, _ = images.class_labels(names, ["birds", "dogs", "cats"])
    assert labels.tolist() == [1, 2, 1]
    with pytest.raises(ValueError, match="dogs/old.*one of the classes cats"):
        images.class_labels(names, ["cats"])
    with pytest.raises(ValueError, match="^1.png.*in a folder of its class"):
        images.class_labels([*names, "1.png"])


def test_what_is_held_out_depends_on_the_pixels_alone():
    faces = random_images(40, (8, 8, 3))
    chosen = split.held_out(faces, 0.1)
    assert chosen.sum() == 4
    turned = split.held_out(faces[::-1], 0.1)
    assert_array_equal(turned[::-1], chosen)
    # Equal images are on one side, and others stay where they were.
    twice = split.held_out(np.concatenate([faces, faces]), 0.1)
    assert_array_equal(twice[:40], twice[40:])
    more = split.held_out(np.concatenate([faces, 255 - faces]), 0.1)
    assert not np.any(more[:40] & ~split.held_out(faces, 0.2))
    assert split.held_out(faces[:2], 0.1).sum() == 1
    with pytest.raises(ValueError, match="hold out 10.0%"):
        split.held_out(faces[:1], 0.1)
    assert split.count_shared(faces[:30], faces[20:]) == 10


def test_duplicates_are_counted(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(PNG)
    (tmp_path / "other.png").write_bytes(encoded(255 - FACE))
    report = folder.check_folder(tmp_path)
    assert report.duplicates == 2
    assert report.summary() == "4 images, 2 the same as another"
    np.savez(tmp_path / "faces.npz", images=[FACE, FACE, 255 - FACE])
    assert images.check_data(tmp_path / "faces.npz").duplicates == 1


def test_small_images_are_enlarged_only_if_asked(tmp_path):
    (tmp_path / "small.png").write_bytes(encoded(BLACK[:8, :8]))
    assert images.load_images(tmp_path, 8).shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="small.png is 8x8.*`upscale`"):
        images.load_images(tmp_path, 9)
    loaded = images.load_images(tmp_path, 9, upscale=True)
    assert_array_equal(loaded, np.zeros((1, 9, 9, 3)))
    report = folder.check_folder(tmp_path, Form(9, upscale=True))
    assert report.notes == [
        ("small.png", "is 8x8: smaller than 9x9, and enlarged")
    ]
    assert images.load_image(tmp_path / "small.png", 9).shape == (9, 9, 3)


def test_a_large_jpeg_is_as_if_decoded_in_full(tmp_path):
    """Decoding at a fraction changes nothing that is to be seen."""
    large = random_images(1, (600, 400, 3))[0]
    Image.fromarray(large).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        full, _ = decoding.fit_pixels(image, 32, 3)
    fast = images.load_image(tmp_path / "large.jpg", 32)
    assert np.abs(fast.astype(int) - full).max() <= 1


def test_a_name_with_a_leading_dot_above_the_folder_hides_nothing(tmp_path):
    (tmp_path / ".data" / "faces").mkdir(parents=True)
    (tmp_path / ".data" / "faces" / "a.png").write_bytes(PNG)
    assert len(images.load_images(tmp_path / ".data" / "faces", SIZE)) == 1


def test_arguments(tmp_path):
    for arguments, message in (
        ({"size": 0}, "`size` is expected.*size=0"),
        ({"size": "8"}, "`size` is expected.*size='8'"),
        ({"size": None}, "`size` is expected for"),
        ({"size": 8, "channels": 4}, "`channels` is expected.*channels=4"),
        ({"size": 8, "on_bad": "ignore"}, "`on_bad` is expected.*'ignore'"),
    ):
        with pytest.raises(ValueError, match=message):
            images.load_images(tmp_path, **arguments)

"""Files that are written whole or not at all, and what a save leaves alone."""

import os

import pytest

from keras_glow.files.atomic import atomic_file, atomic_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links are POSIX")


def write(path, text="new", **settings):
    with atomic_file(path, **settings) as partial:
        # Keras and Pillow take the format from the name.
        assert partial.suffix == os.path.splitext(os.fsdecode(path))[1]
        partial.write_text(text)


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "new"])
@pytest.mark.parametrize(
    "links",
    [
        {"latest.keras": "run/model.keras"},
        {"latest.keras": "{root}/run/model.keras"},
        {"latest.keras": "run/other.keras", "run/other.keras": "model.keras"},
        {"latest.keras": "folder/model.keras", "folder": "run"},
    ],
    ids=["relative", "absolute", "chain", "folder"],
)
def test_a_link_stays_and_its_target_is_replaced(tmp_path, links, there):
    (tmp_path / "run").mkdir()
    model = tmp_path / "run" / "model.keras"
    if there:
        model.write_text("old")
    for name, target in links.items():
        link(tmp_path / name, target.format(root=tmp_path))
    write(tmp_path / "latest.keras")
    assert all((tmp_path / name).is_symlink() for name in links)
    assert not model.is_symlink() and model.read_text() == "new"
    assert not list(tmp_path.rglob("*.partial"))


def test_the_previous_file_is_kept_and_no_link_to_it(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.keras").write_text("old")
    path = link(tmp_path / "latest.keras", "run/model.keras")
    write(path, previous=tmp_path / "previous.keras")
    assert path.is_symlink() and path.read_text() == "new"
    assert not (tmp_path / "previous.keras").is_symlink()
    assert (tmp_path / "previous.keras").read_text() == "old"


def test_links_in_a_circle_are_refused(tmp_path):
    link(tmp_path / "a", "b"), link(tmp_path / "b", "a")
    with pytest.raises(OSError, match=r"^\S+/a cannot be written: its symb"):
        write(tmp_path / "a")
    assert (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o444])
def test_a_file_keeps_its_permissions(tmp_path, mode):
    (tmp_path / "a").write_text("old")
    (tmp_path / "a").chmod(mode)
    write(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_names_in_any_form(tmp_path):
    for name in (b"bytes", "text", "\ubaa8", os.fsdecode(b"\xff")):
        path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
        write(path)
        assert open(path).read() == "new"
        with atomic_folder(path + b"_folder") as folder:
            (folder / "file").write_text("new")
        assert os.listdir(path + b"_folder") == [b"file"]


def test_an_error_is_one_line_whatever_the_name(tmp_path):
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(OSError, match="it is a folder") as caught:
        write(tmp_path / "a\nb")
    assert str(caught.value).isprintable()

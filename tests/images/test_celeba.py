"""Drawn images in the layout of CelebA's archive become its files of faces."""

import csv
import io
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image, ImageDraw

from keras_glow import images
from keras_glow.cli.main import main
from keras_glow.images.celeba import prepare_celeba

# number: (part, person)
PEOPLE = {1: (0, 7), 2: (0, 8), 3: (1, 9), 4: (2, 3), 5: (0, 7), 6: (1, 8)}
NAMES = ["Bald", "Smiling"]


def attribute(number):
    return [1 if number % 2 else -1, -1 if number % 3 else 1]


def draw(number):
    """A flat box, where the face is, in a frame of another colour."""
    image = Image.new("RGB", (178, 218), "lime")
    box = (25, 57, 152, 184)  # which PIL draws inclusively
    ImageDraw.Draw(image).rectangle(box, (10 * number, 100, 200))
    return image


@pytest.fixture
def archive(tmp_path):
    """The layout in which the authors pass it on."""
    folder = tmp_path / "celeba"
    for name in ("Img/img_align_celeba", "Anno", "Eval"):
        (folder / name).mkdir(parents=True)
    for number in PEOPLE:
        path = folder / "Img" / "img_align_celeba" / f"{number:06}.jpg"
        draw(number).save(path, quality=100, subsampling=0)
    lists = {
        "Anno/list_attr_celeba.txt": [
            len(PEOPLE),
            " ".join(NAMES) + " ",
            *(f"{n:06}.jpg {' '.join(map(str, attribute(n)))}" for n in PEOPLE),
        ],
        "Eval/list_eval_partition.txt": [
            f"{n:06}.jpg {part}" for n, (part, _) in PEOPLE.items()
        ],
        "Anno/identity_CelebA.txt": [
            f"{n:06}.jpg {person}" for n, (_, person) in PEOPLE.items()
        ],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(map(str, lines)) + "\n")
    return folder


def as_it_is(folder):
    return folder


def as_a_zip_file(folder):
    return pathlib.Path(shutil.make_archive(folder.parent / "a", "zip", folder))


def with_images_in_a_zip_file(folder):
    name = folder / "img_align_celeba"
    shutil.make_archive(name, "zip", folder / "Img")
    shutil.rmtree(folder / "Img")
    return folder


def as_tables(folder):
    """The layout of Kaggle, without people."""
    for old in list(folder.rglob("*.txt")):
        lines = old.read_text().split("\n")
        if "attr" in old.name:
            lines = [f"image_id {lines[1]}", *lines[2:]]
        new = folder / f"{old.stem}.csv"
        new.write_text("\n".join(",".join(line.split()) for line in lines))
        old.unlink()
    (folder / "identity_CelebA.csv").unlink()
    return folder


@pytest.mark.filterwarnings("ignore:Left out")
@pytest.mark.parametrize(
    "layout",
    [as_it_is, as_a_zip_file, with_images_in_a_zip_file, as_tables],
)
def test_every_layout_gives_the_same_files(archive, tmp_path, layout, capsys):
    archive = layout(archive)
    out = tmp_path / "data"
    assert main(["prepare", "celeba", str(archive), f"--out={out}"]) == 0
    assert f"{out / 'faces32_train.npz'}: 3 images" in capsys.readouterr().out
    # Number 6 shows a person to train on.
    valid = [3] if layout is not as_tables else [3, 6]
    for part, numbers in (
        ("train", [1, 2, 5]),
        ("valid", valid),
        ("test", [4]),
    ):
        path = out / f"faces32_{part}.npz"
        arrays = np.load(path)
        assert arrays["celeba_id"].tolist() == numbers
        assert arrays["attribute_names"].tolist() == NAMES
        attributes = [np.array(attribute(n)) > 0 for n in numbers]
        assert_array_equal(arrays["attributes"], attributes)
        assert ("identity" in arrays) == (layout is not as_tables)
        faces = images.load_images(path, 32)
        assert faces.shape == (len(numbers), 32, 32, 3)
        for face, number in zip(faces.astype(int), numbers, strict=True):
            wrong = np.abs(face - (10 * number, 100, 200))
            assert wrong[2:-2, 2:-2].max() < 6
            # A box that lay elsewhere would show more of the frame.
            assert wrong.max() < 40
    with tarfile.open(out / "celeba_sample.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    text = (tmp_path / "celeba_sample" / "attributes.csv").read_text()
    assert [len(row) for row in csv.reader(io.StringIO(text))] == [3] * 4
    folder = tmp_path / "celeba_sample"
    assert len(images.load_images(folder, 16, on_bad="error")) == 3


def test_a_split_is_taken_where_all_of_it_is_there(archive, tmp_path):
    split = {"train": [4, 1], "valid": [2]}
    written = prepare_celeba(archive, tmp_path, 64, split)
    assert list(written.values()) == [2, 1, 2]
    arrays = np.load(tmp_path / "faces64_train.npz")
    assert arrays["celeba_id"].tolist() == [4, 1]
    assert arrays["images"].shape == (2, 64, 64, 3)
    assert arrays["identity"].tolist() == [3, 7]
    with pytest.warns(UserWarning, match="Left out: 1 images of people"):
        prepare_celeba(archive, tmp_path, 64, {"train": [1, 200_000]})
    assert len(np.load(tmp_path / "faces64_train.npz")["images"]) == 3


@pytest.mark.filterwarnings("ignore:Left out")
def test_what_an_archive_lacks_is_named(archive, tmp_path, capsys):
    image = archive / "Img" / "img_align_celeba" / "000005.jpg"
    attributes = archive / "Anno" / "list_attr_celeba.txt"
    text = attributes.read_text()

    def says(path=archive):
        assert main(["prepare", "celeba", str(path), f"--out={tmp_path}"]) == 1
        return capsys.readouterr().err.splitlines()[-1]

    draw(1).resize((64, 64)).save(image)
    assert "000005.jpg is expected to be aligned" in says()
    image.write_bytes(b"text")
    assert "000005.jpg is not an image" in says()
    image.unlink()
    assert "1 are missing, the first is 000005.jpg" in says()
    draw(5).save(image)
    attributes.write_text(text.replace("000005.jpg", "000009.jpg"))
    assert "attributes of 000005.jpg in list_attr" in says()
    attributes.write_text(text.replace("000005.jpg 1", "000005.jpg one"))
    assert "list_attr_celeba.txt cannot be read" in says()
    attributes.unlink()
    assert "is expected to hold list_attr_celeba.txt" in says()
    assert "img_align_celeba/*.jpg" in says(attributes.parent)
    assert "a folder or a zip file of CelebA" in says(image)
    assert not list(tmp_path.glob("faces32*"))

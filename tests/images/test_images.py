"""Image files in, grids out."""

import io

import numpy as np
import pytest
from helpers import random_images
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from keras_glow import images


def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)


@pytest.fixture
def picture():
    return random_images(1, (12, 12, 3))[0]


def test_a_folder_flat_and_nested_in_the_order_of_names(tmp_path):
    pictures = random_images(5, (12, 12, 3))
    for name, picture in zip(
        ("a.png", "b/c.bmp", "b/d/e.PNG", "f.tiff", "g.webp"),
        pictures,
        strict=True,
    ):
        extra = {"lossless": True} if name.endswith("webp") else {}
        save(tmp_path / name, picture, **extra)
    save(tmp_path / ".hidden.png", pictures[0])
    (tmp_path / "notes.txt").write_text("no image")
    loaded = images.load_images(tmp_path, 12)
    assert_array_equal(loaded, pictures)
    assert loaded.dtype == "uint8"


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((64, 64, 3), "uint8")
    stripes[:, ::2] = 255
    save(tmp_path / "stripes.png", stripes)
    loaded = images.load_images(tmp_path, 8)[0].astype(int)
    assert_allclose(loaded[2:-2, 2:-2], 127, atol=4)


def test_grey_is_exact_in_one_channel(tmp_path, picture):
    grey = picture[..., 0]
    save(tmp_path / "grey.png", grey)
    loaded = images.load_image(tmp_path / "grey.png", 12, channels=1)
    assert_array_equal(loaded[..., 0], grey)
    deep = (grey.astype("uint16")) * 257
    save(tmp_path / "deep.png", deep)
    loaded = images.load_image(tmp_path / "deep.png", 12, channels=1)
    assert_array_equal(loaded[..., 0], grey)


def test_npz(tmp_path):
    faces = random_images(4, (8, 8, 3))
    digits = random_images(4, (8, 8, 1))[..., 0]
    np.savez(tmp_path / "faces.npz", images=faces, other=1)
    np.savez(tmp_path / "digits.npz", x_train=digits, x_test=digits[:2])
    np.savez(tmp_path / "none.npz", other=1)
    np.savez(tmp_path / "float.npz", images=faces / 255)
    load = images.load_images
    assert_array_equal(load(tmp_path / "faces.npz", None), faces)
    assert load(tmp_path / "faces.npz", 4).shape == (4, 4, 4, 3)
    loaded = load(tmp_path / "digits.npz", None)
    assert_array_equal(loaded[..., 0], digits)
    assert load(tmp_path / "digits.npz", 16).shape == (4, 16, 16, 1)
    test = load(tmp_path / "digits.npz", None, keys=images.TEST_KEYS)
    assert_array_equal(test, loaded[:2])
    with pytest.raises(ValueError, match="none.npz.*images, x_train.*other"):
        load(tmp_path / "none.npz", None)
    with pytest.raises(ValueError, match="float.npz.*uint8.*float64"):
        load(tmp_path / "float.npz", None)


def test_errors_of_paths(tmp_path):
    with pytest.raises(ValueError, match="absent.*does not exist"):
        images.load_images(tmp_path / "absent", 8)
    with pytest.raises(ValueError, match="holds none"):
        images.load_images(tmp_path, 8)
    (tmp_path / "broken.npz").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="broken.npz cannot be read"):
        images.load_images(tmp_path / "broken.npz", 8)


def test_a_heat_map_is_brighter_where_values_are_higher():
    values = np.arange(-200.0, 200.0).reshape(1, 20, 20)
    shades = images.heat_map(values, channels=3)
    assert shades.shape == (1, 20, 20, 3)
    assert shades.dtype == "uint8"
    assert (np.diff(shades[..., 0].ravel().astype(int)) >= 0).all()
    assert (shades[0, 0, :4] == 0).all()
    assert (shades[0, -1, -4:] == 255).all()
    assert (shades[0, 10, 0] == 128).all()
    assert not images.heat_map(np.ones((2, 3, 3))).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_is_exact_to_the_pixel(tmp_path, channels):
    pictures = random_images(5, (4, 6, channels))
    images.save_grid(pictures, tmp_path / "new" / "grid.png", columns=3)
    with Image.open(tmp_path / "new" / "grid.png") as image:
        grid = np.asarray(image).reshape(14, 26, channels)
    assert_array_equal(grid[2:6, 2:8], pictures[0])
    assert_array_equal(grid[8:12, 10:16], pictures[4])
    assert_array_equal(grid[8:12, 18:24], 255)  # no sixth picture
    assert_array_equal(grid[6:8], 255)


def test_labels_beside_the_images(tmp_path):
    file = tmp_path / "data.npz"
    pictures, labels = random_images(4, (4, 4, 1)), np.arange(4)
    np.savez(file, x_train=pictures, x_test=pictures[:2], y_test=labels[:2])
    found = images.load_labels(file, images.TEST_KEYS)
    assert_array_equal(found, labels[:2])
    with pytest.raises(ValueError, match=r"data.npz.*y_train.*x_train"):
        images.load_labels(file)


def test_what_cannot_be_resized_is_told_beforehand(tmp_path):
    np.savez(tmp_path / "four.npz", images=random_images(3, (8, 8, 4)))
    file = tmp_path / "four.npz"
    for read in (images.load_images, images.check_data):
        read(file, np.int64(8))
        with pytest.raises(ValueError, match="four.npz.*1 or 3 channels"):
            read(file, 16)
        with pytest.raises(ValueError, match="`size`.*True"):
            read(file, True)


@pytest.mark.parametrize(
    "name, format, mode",
    [
        ("a.png", "PNG", "RGB"),
        ("a.PNG", "PNG", "RGB"),
        ("a.jpg", "JPEG", "RGB"),
        ("b/a.JPEG", "JPEG", "L"),
        ("a.webp", "WEBP", "RGB"),
        ("a.gif", "GIF", "RGB"),
        ("a.bmp", "BMP", "L"),
        ("a.tif", "TIFF", "RGB"),
    ],
)
def test_the_name_says_the_format(picture, tmp_path, name, format, mode):
    pixels = picture[None, ..., : len(mode) // 3 * 2 + 1]
    images.save_grid(pixels, tmp_path / name)
    images.save_image(pixels[0], str(tmp_path / f"one_{name[-5:]}"))
    with Image.open(tmp_path / name) as image:
        assert image.format == format
        assert image.size == (16, 16)
        if format != "GIF":
            assert image.mode == mode


@pytest.mark.parametrize("name", ["a", "a.xyz", "a.npz", ".png", "a.png.txt"])
def test_a_name_of_no_format_is_refused(picture, tmp_path, name):
    with pytest.raises(ValueError, match=r"such as \.png or \.jpg"):
        images.save_grid(picture[None], tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image / 255,
        lambda image: image[0],
        lambda image: image[..., :2],
        lambda image: image[None],
        lambda image: image.astype("int64"),
    ],
)
def test_what_is_no_picture_is_refused(picture, tmp_path, change):
    with pytest.raises(ValueError, match="uint8"):
        images.save_image(change(picture), tmp_path / "a.png")


def test_a_grid_enlarges_pixels(picture):
    grid = images.image_grid(picture[None], padding=1, scale=3)
    assert grid.shape == (38, 38, 3)
    assert_array_equal(grid[2:-1:3, 2:-1:3], picture)
    assert_array_equal(grid[1:4, 1:4], np.full((3, 3, 3), picture[0, 0]))


def test_an_image_from_bytes(picture):
    content = images.png_bytes(picture)
    loaded = images.load_image(io.BytesIO(content), 12)
    assert_array_equal(loaded, picture)
    with pytest.raises(ValueError, match="^The image cannot be read"):
        images.load_image(io.BytesIO(content[:-30]), 12)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_has_every_frame(tmp_path, suffix, channels):
    frames = random_images(5, (6, 8, channels))
    path = tmp_path / "new" / f"walk{suffix}"
    images.save_animation(frames, path, fps=20, scale=3)
    with Image.open(path) as animation:
        assert (animation.n_frames, animation.info["loop"]) == (5, 0)
        for i, frame in enumerate(frames):
            animation.seek(i)
            shown = np.asarray(animation.convert("RGB"))[::3, ::3]
            assert animation.info["duration"] == 50
            assert_array_equal(shown, np.broadcast_to(frame, (6, 8, 3)))


@pytest.mark.parametrize(
    "arguments, name",
    [
        ({"path": "walk.mp4"}, "path"),
        ({"images": np.zeros((0, 6, 8, 3), "uint8")}, "images"),
        ({"images": np.zeros((6, 8, 3), "uint8")}, "images"),
        ({"images": np.zeros((2, 6, 8, 3))}, "image"),
        ({"fps": 0}, "fps"),
    ],
)
def test_what_is_no_animation_is_refused(
    tmp_path, monkeypatch, arguments, name
):
    monkeypatch.chdir(tmp_path)
    good = {"images": random_images(2, (6, 8, 3)), "path": "walk.gif"}
    with pytest.raises(ValueError, match=f"`{name}`"):
        images.save_animation(**{**good, **arguments})
    assert not any(tmp_path.iterdir())

"""What the notebooks share: the images they train on, and how they show some.

Nothing is downloaded: MNIST and faces come from the folder that the environment
variable `KERAS_GLOW_DATA` names, or from `../shared/data` beside the
repository. Where there is no such folder, images that a dependency ships take
their place: the digits of scikit-learn, the face patches of scikit-image.
"""

import os
import pathlib
import tarfile

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from keras_glow import images

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
FOLDER = pathlib.Path(
    os.environ.get("KERAS_GLOW_DATA") or REPOSITORY.parent / "shared" / "data"
)


def digits(size):
    """Handwritten digits, white on black.

    Args:
        size: int, height and width. MNIST's 28x28 are padded to 32x32 and
            resized from there; scikit-learn's have 8x8.

    Returns:
        Tuple of train and test, each `(images, labels)`, uint8 images `(count,
        size, size, 1)`, and of the name of the data.
    """
    path = FOLDER / "mnist.npz"
    if path.is_file():
        with np.load(path) as arrays:
            parts = [
                (np.pad(arrays[f"x_{part}"], ((0, 0), (2, 2), (2, 2))), labels)
                for part, labels in (
                    ("train", arrays["y_train"]),
                    ("test", arrays["y_test"]),
                )
            ]
        name = "MNIST"
    else:
        from sklearn.datasets import load_digits

        data = load_digits()
        x, y = np.minimum(data.images * 16, 255).astype("uint8"), data.target
        parts = [(x[:-297], y[:-297]), (x[-297:], y[-297:])]
        name = "the digits of scikit-learn (no MNIST was found)"
    train, test = ((_resize(x, size), y) for x, y in parts)
    return train, test, name


def faces(size, count=None):
    """Faces in colour: CelebA's, or the grey ones that scikit-image ships.

    Args:
        size: int, height and width.
        count: int, how many to train on, or None for all.

    Returns:
        Tuple of train and test, uint8 `(count, size, size, 3)`, of other
        people each, and of the name of the data.
    """
    path = FOLDER / "faces32_train.npz"
    if path.is_file():
        train = _read(path, "images")[:count]
        test = _read(path.with_name("faces32_valid.npz"), "images")
        return _resize(train, size), _resize(test, size), "CelebA"
    x = np.repeat(_resize(_patches(), size), 3, axis=-1)
    name = "100 patches of LFW from scikit-image (no CelebA was found)"
    return x[:-20][:count], x[-20:], name


def attributes():
    """What is known of the faces that `faces` trains on.

    Returns:
        Dict of names to uint8 0/1 `(count,)`. The stand-ins come without any:
        theirs is `Bright`, whether a patch is brighter than most.
    """
    path = FOLDER / "faces32_train.npz"
    if path.is_file():
        names = _read(path, "attribute_names")
        values = _read(path, "attributes")
        return dict(zip(names.tolist(), values.T, strict=True))
    brightness = _patches()[:-20].mean((1, 2))
    return {"Bright": (brightness > np.median(brightness)).astype("uint8")}


def face_folder(folder):
    """Puts image files of faces under a folder, once.

    Returns:
        The folder with the files: 1,800 jpgs of CelebA in their original sizes,
        or the patches of scikit-image as PNGs.
    """
    path = FOLDER / "celeba_sample.tar"
    if path.is_file():
        target = pathlib.Path(folder, "celeba_sample")
        if not target.is_dir():
            with tarfile.open(path) as tar:
                tar.extractall(folder, filter="data")
        return target
    target = pathlib.Path(folder, "patches")
    for number, patch in enumerate(_patches()):
        images.save_image(patch[..., None], target / f"{number:03}.png")
    return target


def show(array, path, title, columns, rows=None):
    """Draws images as a grid, and writes the figure.

    Args:
        array: uint8 `(count, height, width, 1 or 3)`, row by row.
        path: where the figure goes.
        title: of the figure.
        columns: int, images in a row.
        rows: optional label for each row.
    """
    grid = images.image_grid(array, columns)
    height, width = grid.shape[:2]
    fig, ax = plt.subplots(
        figsize=(8, 8 * height / width + 0.4), layout="constrained"
    )
    ax.imshow(grid.squeeze(), cmap="gray", vmin=0, vmax=255)
    ax.set(title=title, xticks=[], yticks=[])
    if rows is not None:
        middles = (np.arange(len(rows)) + 0.5) * (height - 2) / len(rows) + 1
        ax.set_yticks(middles, rows)
        ax.tick_params(length=0)
    fig.savefig(path)


def _read(path, key):
    with np.load(path) as arrays:
        return arrays[key]


def _patches():
    import skimage.data

    # The first 100 are faces, the others are not.
    return np.uint8(np.round(skimage.data.lfw_subset()[:100] * 255))


def _resize(x, size):
    """uint8 `(count, height, width[, 3])` to `(count, size, size, 1 or 3)`."""
    if x.shape[1:3] != (size, size):
        x = np.stack(
            [np.asarray(Image.fromarray(a).resize((size, size))) for a in x]
        )
    return x if x.ndim == 4 else x[..., None]

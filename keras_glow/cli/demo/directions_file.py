"""Files of attribute directions: names, and a vector of latents for each."""

import pathlib

import numpy as np

from keras_glow.checks import one_line, refuse
from keras_glow.files.atomic import atomic_file
from keras_glow.images.npz import open_npz

MAX_DIRECTIONS = 64
MAX_NAME = 40  # characters
HEADERS = 2048  # bytes, at most, before the values of both arrays


def beside(model_file):
    """Returns the path at which the directions of a model are looked for."""
    path = pathlib.Path(model_file)
    return path.with_name(f"{path.stem}_attributes.npz")


def directions_path(model_file):
    """Returns the path of the directions beside a model, None if none are."""
    path = beside(model_file)
    return path if path.is_file() else None


def write_directions(path, directions):
    """Writes a dict of names to arrays `(D,)` as `.npz`, in half precision.

    A ValueError says if `read_directions` would refuse it.
    """
    if len(directions) > MAX_DIRECTIONS:
        expected = f"at most {MAX_DIRECTIONS} attributes for one file"
        refuse("directions", expected, list(directions))
    for name in directions:
        if not 0 < len(name) <= MAX_NAME:
            expected = f"names of 1 to {MAX_NAME} letters"
            refuse("directions", expected, name)
    with atomic_file(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file,
            names=np.array(list(directions)),
            directions=np.stack(list(directions.values())).astype("float16"),
        )


def read_directions(path, dimensions):
    """Reads a file of directions, which may be hostile: it cannot run code.

    Args:
        path: an `.npz` file with `names`, strings `(k,)`, and `directions`,
            floats `(k, D)`, for `keras_glow.latent.apply_direction`.
        dimensions: int, D of the model.

    Returns:
        Dict of names to float32 arrays `(D,)`. A ValueError names the file and
        what is wrong with it.
    """
    most = MAX_DIRECTIONS * (4 * MAX_NAME + 8 * dimensions) + HEADERS
    try:
        with open_npz(path, most) as arrays:
            names, directions = arrays["names"], arrays["directions"]
    except Exception as error:
        # NumPy and zipfile report damage by many types of exception.
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from None
    if (
        names.ndim != 1
        or names.dtype.kind != "U"
        or not len(names)
        or len(set(names)) < len(names)
    ):
        refuse("names", f"different strings in {path}", names)
    if (
        directions.dtype.kind != "f"
        or directions.shape != (len(names), dimensions)
        or not np.isfinite(directions).all()
    ):
        expected = f"finite floats (names, {dimensions}) in {path}"
        refuse("directions", expected, directions)
    directions = directions.astype("float32")
    return dict(zip(map(str, names), directions, strict=True))

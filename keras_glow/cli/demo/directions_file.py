"""Files of attribute directions: names, and a vector of latents for each."""

import pathlib
import zipfile

import numpy as np

from keras_glow.checks import one_line, refuse

MAX_DIRECTIONS = 64
MAX_NAME = 40  # characters
HEADER = 1024  # bytes, at most, before the values of an array in the file


def directions_path(model_file):
    """Returns the path of the directions beside a model, None if none are."""
    path = pathlib.Path(model_file)
    path = path.with_name(f"{path.stem}_attributes.npz")
    return path if path.is_file() else None


def write_directions(path, directions):
    """Writes a file for `read_directions`, in half precision.

    Args:
        path: of an `.npz` file.
        directions: dict of names to float arrays `(D,)`.
    """
    np.savez_compressed(
        path,
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
        Dict of names to float32 arrays `(D,)`.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    try:
        names, directions = _read_arrays(path, dimensions)
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


def _read_arrays(path, dimensions):
    """Returns `names` and `directions`, if no larger than they can be."""
    limits = {
        "names": 4 * MAX_NAME * MAX_DIRECTIONS + HEADER,
        "directions": 8 * dimensions * MAX_DIRECTIONS + HEADER,
    }
    with zipfile.ZipFile(path) as archive:
        for name, limit in limits.items():
            size = archive.getinfo(f"{name}.npy").file_size
            if size > limit:
                raise ValueError(f"{name} takes {size} bytes, over {limit}")
    with np.load(path, allow_pickle=False) as file:
        return file["names"], file["directions"]

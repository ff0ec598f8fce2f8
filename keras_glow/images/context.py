"""What is known of each image beside it: an array, or a table of numbers."""

import csv
import pathlib

import numpy as np

from keras_glow.checks import printable_path
from keras_glow.images.npz import read_npz


def load_context(path, names, source):
    """Load the context of images that `load_images` has read.

    Args:
        path: of the images, a folder or an `.npz` file.
        names: those of their files as `load_images` returns them, None for an
            `.npz` file.
        source: for an `.npz` file, the key of an array `(count, ...)` in it;
            for a folder, a CSV file with a row for each image, below a row of
            headings: the file's name, then numbers.

    Returns:
        Array `(count, ...)`; of a CSV file, float32 `(count, n)`.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    if names is None:
        return read_npz(pathlib.Path(path), (source,))[1]
    shown = printable_path(source)
    try:
        with open(source, newline="", encoding="utf-8") as file:
            _, *rows = filter(None, csv.reader(file))
            table = {row[0]: np.array(row[1:], "float32") for row in rows}
        # A name may be that of the file alone: most folders have no folders.
        found = [table.get(n, table.get(pathlib.Path(n).name)) for n in names]
    except (OSError, ValueError) as error:
        raise ValueError(f"{shown} cannot be read: {error}") from None
    missing = [n for n, row in zip(names, found, strict=True) if row is None]
    if missing:
        raise ValueError(
            f"{shown} is expected to have a row for each image. "
            f"{len(missing)} are missing, such as {printable_path(missing[0])}"
        )
    lengths = {len(row) for row in found}
    if len(lengths) > 1 or lengths == {0}:
        raise ValueError(
            f"{shown} is expected to have rows of equally many numbers. "
            f"Received: {', '.join(map(str, sorted(lengths)))}"
        )
    return np.stack(found)

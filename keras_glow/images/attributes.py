"""What is known of each image: its class, and tables of attributes."""

import csv
import os
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

from keras_glow.checks import printable_path
from keras_glow.images.npz import read_npz

DELIMITERS = ",;\t"


def class_labels(
    names: Sequence[str], classes: Sequence[str] | None = None
) -> tuple[np.ndarray, list[str]]:
    """Number the folders of images as classes, in the order of their names.

    The class of an image is the outermost folder in its name, as for
    `keras.utils.image_dataset_from_directory`.

    Args:
        names: list of str, relative to the folder of all, such as `load_images`
            returns.
        classes: list of str, the classes that there may be, or None for those
            that there are.

    Returns:
        Tuple of the labels, int32 `(count,)`, and the classes, a list of str.

    Raises:
        ValueError: naming an image that lies in no folder, or in none of
            `classes`.
    """
    folders = []
    for name in names:
        folder, separator, _ = name.partition(os.sep)
        if not separator:
            raise ValueError(
                f"{printable_path(name)} is expected to lie in a folder of its "
                "class, as all images"
            )
        if classes is not None and folder not in classes:
            known = ", ".join(map(printable_path, classes))
            raise ValueError(
                f"{printable_path(name)} is expected to be of one of the "
                f"classes {known}"
            )
        folders.append(folder)
    classes = sorted(set(folders)) if classes is None else list(classes)
    numbers = {folder: number for number, folder in enumerate(classes)}
    return np.array([numbers[f] for f in folders], "int32"), classes


def load_attributes(
    path: str | os.PathLike, names: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    """Load a table with a row for each image and a column for each attribute.

    A text file has a head with the names of the columns, and values that are
    separated by commas, semicolons or tabs. The first column names the image:
    the name of its file, or its whole path in the folder. Columns without any
    number are left out, with a warning. An `.npz` file has the arrays
    `attributes`, numbers `(count, k)`, in the order of the images, and
    `attribute_names`, strings `(k,)`.

    Args:
        path: of the file.
        names: list of str, the images, such as `load_images` returns.

    Returns:
        Tuple of a float32 array `(len(names), k)`, with NaN in the rows of
        images that the table does not have, and of a list of k names.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        return _of_npz(path, len(names))
    head, table = _read_table(path)
    values = np.full((len(names), len(head) - 1), np.nan, "float32")
    for row, name in zip(values, names, strict=True):
        file = pathlib.PurePath(name)
        row[:] = table.get(file.as_posix(), table.get(file.name, np.nan))
    if np.isnan(values).all():
        raise ValueError(
            f"{printable_path(path)} is expected to have rows for images such "
            f"as {printable_path(names[0])}. Received: "
            f"{', '.join(map(printable_path, [*table][:3])) or 'no rows'}"
        )
    return values, head[1:]


def load_context(
    path: str | os.PathLike, names: Sequence[str] | None, source: str
) -> np.ndarray:
    """Load the context of images that `load_images` has read.

    Args:
        path: of the images, a folder or an `.npz` file.
        names: those of their files, None for an `.npz` file.
        source: for an `.npz` file, the key of an array `(count, ...)` in it;
            for a folder, a table as `load_attributes` reads it.

    Returns:
        Array `(count, ...)`; of a table, float32 `(count, k)`.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    if names is None:
        return read_npz(pathlib.Path(path), (source,))[1]
    values, _ = load_attributes(source, names)
    missing = np.flatnonzero(np.isnan(values).any(axis=1))
    if len(missing):
        raise ValueError(
            f"{printable_path(source)} is expected to have a row for each "
            f"image. {len(missing)} are missing, such as that of "
            f"{printable_path(names[int(missing[0])])}"
        )
    return values


def _of_npz(path, count):
    (_, values), (_, names) = (
        read_npz(path, (key,)) for key in ("attributes", "attribute_names")
    )
    if (
        values.dtype.kind not in "biuf"
        or names.dtype.kind != "U"
        or values.shape != (count, *names.shape)
        or names.ndim != 1
    ):
        raise ValueError(
            f"{printable_path(path)} is expected to hold attributes, numbers "
            f"({count}, k), and attribute_names, strings (k,). Received: "
            f"{values.dtype} {values.shape} and {names.dtype} {names.shape}"
        )
    return values.astype("float32"), names.tolist()


def _read_table(path):
    """Return the head of a text file, and a dict of names to numbers.

    Columns of words alone are left out of both, with a warning.
    """
    shown = printable_path(path)
    try:
        text = path.read_text("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ValueError(f"{shown} cannot be read: {error.strerror}") from None
    lines = text.splitlines()
    first = lines[0] if lines else ""
    reader = csv.reader(lines, delimiter=max(DELIMITERS, key=first.count))
    head = [name.strip() for name in next(reader, [])]
    if len(head) < 2 or len(set(head)) < len(head) or "" in head[1:]:
        raise ValueError(
            f"{shown} is expected to begin with different names of two columns "
            f"or more. Received: {first[:80]!r}"
        )
    table, lines = {}, {}
    blank = [None] * (len(head) - 1)
    for name, *row in filter(None, reader):
        row = list(map(_number, row))
        table[name.strip()] = row if len(row) == len(blank) else blank
        lines[name.strip()] = reader.line_num
    columns = range(len(blank))
    kept = [i for i in columns if any(r[i] is not None for r in table.values())]
    kept = kept or columns
    words = [head[i + 1] for i in columns if i not in kept]
    if words:
        names = ", ".join(map(printable_path, words))
        warnings.warn(f"{shown}: no numbers in {names}", stacklevel=3)
    for name, row in table.items():
        table[name] = numbers = [row[i] for i in kept]
        if None in numbers:
            raise ValueError(
                f"{shown} is expected to have {len(kept)} numbers after the "
                f"name in line {lines[name]}"
            )
    return [head[0], *(head[i + 1] for i in kept)], table


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None

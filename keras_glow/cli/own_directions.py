"""Finds the directions of attributes in a user's images: see `cli.latents`."""

import pathlib

import numpy as np

from keras_glow import images
from keras_glow.cli.inputs import load_data, rows
from keras_glow.images.progress import chunks
from keras_glow.latent import attribute_direction

CHUNK = 256  # images that are encoded at once


def find(model, options):
    """Returns a dict of attributes to directions `(D,)`.

    The `options` are those of `keras-glow directions`.
    """
    if len(options.labels or ()) == 2:
        data, given, has, names = _of_folders(model, options)
    else:
        data, given, has, names = _of_table(model, options)
    names, has = _chosen(options.attributes, names, has)
    z = _encode(model, data, given)
    found = {}
    for i, name in enumerate(names):
        others = np.delete(has, i, axis=1)
        found[name] = attribute_direction(
            z,
            has[:, i],
            others if options.orthogonal and others.size else None,
            options.ridge,
        )
        count = has[:, i].sum()
        print(f"{name}: {count} images with it, {len(z) - count} without")
    return found


def _of_folders(model, options):
    """Returns images, what they are given, bools `(count, 1)`, one name."""
    folders = [pathlib.Path(folder) for folder in options.labels]
    if options.data:
        inside = [pathlib.Path(options.data) / folder for folder in folders]
        folders = [
            path if path.is_dir() else folder
            for path, folder in zip(inside, folders, strict=True)
        ]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"--labels is expected to be one file or two folders. {folder} "
                "is no folder"
            )
    (x, y, _), (x2, y2, _) = (load_data(model, options, f) for f in folders)
    has = np.arange(len(x) + len(x2))[:, None] < len(x)
    given = {name: np.concatenate([y[name], y2[name]]) for name in y}
    return np.concatenate([x, x2]), given, has, [folders[0].resolve().name]


def _of_table(model, options):
    """Returns images, what they are given, bools `(count, k)`, k names."""
    if options.data is None:
        raise ValueError("DATA is expected, or two folders as --labels")
    if len(options.labels or [None]) > 1:
        count = len(options.labels)
        raise ValueError(
            f"--labels is expected to be one file or two folders, not {count}"
        )
    table = options.labels[0] if options.labels else options.data
    if pathlib.Path(table).is_dir():
        raise ValueError(f"--labels is expected for the images of {table}")
    data, given, files = load_data(model, options)
    files = files or [str(i) for i in range(len(data))]
    values, names = images.load_attributes(table, files)
    known = ~np.isnan(values).all(axis=1)
    if not known.all():
        missing = np.sum(~known)
        print(f"{missing} images left out: {table} has no rows for them")
    values = values[known]
    if not np.isin(values, (-1, 0, 1)).all():
        raise ValueError(
            f"{table} is expected to hold 0 and 1, or -1 and 1, for each "
            "attribute"
        )
    return data[known], rows(given, known), values > 0, names


def _chosen(wanted, names, has):
    """Returns the attributes that are wanted, and that tell images apart."""
    for name in wanted or ():
        if name not in names:
            raise ValueError(
                f"--attributes is expected to be of {', '.join(names)}. "
                f"Received: {name}"
            )
    columns = []
    for name in wanted or names:
        column = names.index(name)
        count = has[:, column].sum()
        if 0 < count < len(has):
            columns.append(column)
        else:
            every = "every" if count else "no"
            print(f"{name}: left out, since {every} image has it")
    if not columns:
        raise ValueError(
            "No attribute is left: each needs images with it and images "
            "without it"
        )
    return [names[column] for column in columns], has[:, columns]


def _encode(model, data, given):
    return np.concatenate(
        [
            model.encode(data[chunk], **rows(given, chunk))
            for chunk in chunks(len(data), CHUNK, "images encoded")
        ]
    )

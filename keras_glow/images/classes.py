"""Makes classes of the folders that images lie in."""

import os
from collections.abc import Sequence

import numpy as np

from keras_glow.checks import printable_path


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

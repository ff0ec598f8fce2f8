"""Bad input gets one line: what was expected, and what came."""

import numpy as np
from keras import ops


def check_arguments(image_shape, levels, depth, width, bits, num_classes, seed):
    """Refuses numbers that no `Glow` can be built of, naming the argument."""
    for name, value, low, high in (
        ("levels", levels, 1, None),
        ("depth", depth, 1, None),
        ("width", width, 1, None),
        ("bits", bits, 1, 8),
        ("num_classes", num_classes, 1, None),
        ("seed", seed, 0, 2**31 - 1),
    ):
        if value is None and name == "num_classes":
            continue
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or value < low
            or (high is not None and value > high)
        ):
            expected = f">= {low}" if high is None else f"{low}..{high}"
            raise ValueError(
                f"`{name}` is expected to be an integer {expected}. "
                f"Received: {name}={value!r}"
            )
    multiple = 2**levels
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            "`image_shape` is expected to be (height, width, channels). "
            f"Received: image_shape={image_shape}"
        )
    if image_shape[0] % multiple or image_shape[1] % multiple:
        raise ValueError(
            "Height and width in `image_shape` are expected to be multiples of "
            f"2**levels = {multiple}. Received: image_shape={image_shape}"
        )


def check_choice(name, value, choices):
    """Refuses a value that is none of the choices."""
    if value not in choices:
        raise ValueError(
            f"`{name}` is expected to be one of {choices}. "
            f"Received: {name}={value!r}"
        )


def check_images(images, image_shape):
    """Refuses what is not a batch of integer images 0..255.

    Args:
        images: array or tensor `(batch, height, width, channels)`.
        image_shape: the shape of one image that the model expects.

    Returns:
        The images as a numpy array of an integer dtype.

    Raises:
        ValueError: if the shape, the dtype or the range is another.
    """
    images = np.asarray(ops.convert_to_numpy(images))
    if images.shape[1:] != tuple(image_shape):
        expected = ", ".join(map(str, ("batch", *image_shape)))
        raise ValueError(
            f"Images are expected to have the shape ({expected}). "
            f"Received: shape={images.shape}"
        )
    if not np.issubdtype(images.dtype, np.integer):
        raise ValueError(
            "Images are expected to be integers 0..255. "
            f"Received: dtype={images.dtype}"
        )
    if images.dtype != "uint8" and images.size:
        low, high = images.min(), images.max()
        if low < 0 or high > 255:
            raise ValueError(
                "Images are expected to be integers 0..255. "
                f"Received: values from {low} to {high}"
            )
    return images


def check_labels(labels, count, num_classes):
    """Refuses what are not labels of `count` images, or are not to be there.

    Args:
        labels: int array `(count,)`; None for a model without classes.
        count: int.
        num_classes: int, or None.

    Returns:
        int32 array `(count,)`, or None.

    Raises:
        ValueError: if they are not as described.
    """
    if (labels is None) != (num_classes is None):
        expected = "None" if num_classes is None else "given"
        raise ValueError(
            f"`labels` is expected to be {expected}, for num_classes="
            f"{num_classes}. Received: labels={labels}"
        )
    if labels is None:
        return None
    labels = np.asarray(ops.convert_to_numpy(labels))
    if (
        labels.shape != (count,)
        or not np.issubdtype(labels.dtype, np.integer)
        or np.any((labels < 0) | (labels >= num_classes))
    ):
        raise ValueError(
            f"`labels` is expected to be {count} integers from 0 to "
            f"{num_classes - 1}. Received: labels={labels}"
        )
    return labels.astype("int32")

"""Bad input gets one line: which argument, what was expected, what came.

Whatever comes, what leaves here is a plain value of the type that was asked
for, or a ValueError.
"""

import math
import operator
import reprlib

import keras
import numpy as np
from keras import ops

from keras_glow.losses import StandardNormalNLL

NETWORK_DTYPES = (None, "float32", "float64", "bfloat16", "float16")
MAX_LEVELS = 30
MAX_DEPTH = 1024
MAX_PARAMETERS = 2**31
# Of weights: what the integers of every backend hold. Of noise: what keeps the
# keys (seed, stream, image) of `noise.keyed_generators` apart.
MAX_WEIGHTS_SEED = 2**31 - 1
MAX_SEED = 2**32 - 1
MAX_SAMPLE_BYTES = 2**34  # 16 GiB

_short = reprlib.Repr()
_short.maxother = _short.maxstring = 80


def describe(value):
    """Any value in one short line."""
    if isinstance(value, np.ndarray) and value.ndim:
        text = f"{value.dtype} array of shape {value.shape}"
        if value.size and value.dtype.kind in "iuf":
            text += f" from {value.min()} to {value.max()}"
        return text
    try:
        return " ".join(_short.repr(value).split())
    except ValueError:  # Python prints no integer of over 4300 digits
        return f"a large {type(value).__name__}"


def one_line(error):
    """The first line of what an exception says, or the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def refuse(name, expected, value, hint=""):
    """Raises the ValueError that all checks have in common."""
    raise ValueError(
        f"`{name}` is expected to be {expected}. "
        f"Received: {name}={describe(value)}{hint}"
    )


def check_integer(name, value, low, high=None):
    """Returns an integer of any kind, numpy's too, as an int within limits."""
    number = None
    if not isinstance(value, (bool, np.bool_)):
        try:
            number = operator.index(value)
        except TypeError:
            pass
    if number is None or number < low or (high is not None and number > high):
        limits = f">= {low}" if high is None else f"{low}..{high}"
        refuse(name, f"an integer {limits}", value)
    return number


def check_positive(name, value):
    """Returns a finite number > 0 as a float."""
    number = _as_number(value)
    if not 0 < number < math.inf:
        refuse(name, "a number > 0", value)
    return number


def check_fraction(name, value):
    """Returns a number >= 0 and < 1 as a float."""
    number = _as_number(value)
    if not 0 <= number < 1:
        refuse(name, "a number from 0 to below 1", value)
    return number


def check_classifier_weight(weight, num_classes):
    """Returns a finite number >= 0 as a float; 0 if there are no classes."""
    number = _as_number(weight)
    if not 0 <= number < math.inf:
        refuse("classifier_weight", "a finite number >= 0", weight)
    if number and num_classes is None:
        refuse("classifier_weight", "0, for num_classes=None", weight)
    return number


def check_boolean(name, value):
    """Returns True or False, and takes nothing else for one."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, "True or False", value)
    return bool(value)


def check_choice(name, value, choices):
    """Refuses a value that is none of the choices: strings, bools, None."""
    if not any(type(value) is type(c) and value == c for c in choices):
        refuse(name, f"one of {choices}", value)
    return value


def check_seed(seed, or_none=True, or_center=False):
    """Returns the seed of noise: an int, None if allowed, or `"center"`."""
    if seed is None and or_none:
        return None
    if or_center and isinstance(seed, str) and seed == "center":
        return seed
    try:
        return check_integer("seed", seed, 0, MAX_SEED)
    except ValueError:
        others = [" or None"] * or_none + [' or "center"'] * or_center
        refuse("seed", f"an integer 0..{MAX_SEED}" + "".join(others), seed)


def check_arguments(image_shape, levels, depth, width, bits, num_classes, seed):
    """Refuses numbers that no `Glow` can be built of, naming the argument.

    Returns:
        The arguments in their order, as plain ints and a tuple of them.
    """
    levels = check_integer("levels", levels, 1, MAX_LEVELS)
    depth = check_integer("depth", depth, 1, MAX_DEPTH)
    width = check_integer("width", width, 1)
    bits = check_integer("bits", bits, 1, 8)
    if num_classes is not None:
        num_classes = check_integer("num_classes", num_classes, 1)
    seed = check_integer("seed", seed, 0, MAX_WEIGHTS_SEED)
    image_shape = _check_image_shape(image_shape, multiple=2**levels)
    parameters = _parameters(image_shape, levels, depth, width, num_classes)
    if parameters > MAX_PARAMETERS:
        raise ValueError(
            "`image_shape`, `levels`, `depth`, `width` and `num_classes` are "
            f"expected to ask for at most {MAX_PARAMETERS:,} parameters. "
            f"Received: image_shape={image_shape}, levels={levels}, "
            f"depth={depth}, width={width}, num_classes={num_classes}, "
            f"about {parameters:.1e} parameters"
        )
    return image_shape, levels, depth, width, bits, num_classes, seed


def _check_image_shape(image_shape, multiple):
    try:
        sizes = [
            check_integer("image_shape", size, 1)
            for size in (image_shape if _is_sequence(image_shape) else ())
        ]
    except ValueError:
        sizes = []
    if len(sizes) != 3:
        refuse(
            "image_shape",
            "(height, width, channels), three integers >= 1",
            image_shape,
        )
    if sizes[0] % multiple or sizes[1] % multiple:
        raise ValueError(
            "Height and width in `image_shape` are expected to be multiples of "
            f"2**levels = {multiple}. Received: "
            f"image_shape={describe(tuple(sizes))}"
        )
    return tuple(sizes)


def _parameters(image_shape, levels, depth, width, num_classes):
    """About how many weights a `Glow` has."""
    *_, channels = image_shape
    total = 2 * math.prod(image_shape) * (num_classes or 1)
    for level in range(levels):
        channels *= 4
        network = width * (9 * channels // 2 + width + 9 * channels)
        total += depth * (network + 3 * channels**2)
        if level + 1 < levels:
            total += channels // 2 * 2 * (num_classes or 0)
            channels -= channels // 2
    return total


def check_images(images, image_shape, name="images", least=0):
    """Refuses what is not a batch of integer images 0..255.

    Args:
        images: array or tensor `(batch, height, width, channels)`, or a list
            of images that make one.
        image_shape: the shape of one image that the model expects.
        name: of the argument.
        least: int, how many images there have to be.

    Returns:
        The images as a numpy array of an integer dtype.

    Raises:
        ValueError: if the shape, the dtype or the range is another.
    """
    shape = ", ".join(map(str, ("batch", *image_shape)))
    expected = f"integers 0..255 of shape ({shape})"
    array = _as_array(images)
    if array is None:
        refuse(name, expected, images)
    if array.dtype.kind not in "iu":
        value = array if array.ndim and array.dtype.kind in "bf" else images
        refuse(name, expected, value, _conversion(name, array))
    if array.ndim != 4 or array.shape[1:] != tuple(image_shape):
        refuse(name, expected, array)
    if len(array) < least:
        refuse(name, f"{least} image or more, {expected}", array)
    if array.dtype != "uint8" and array.size:
        if array.min() < 0 or array.max() > 255:
            refuse(name, expected, array)
    return array


def _conversion(name, array):
    """How to make integers 0..255 of what was given, as a hint."""
    kind = array.dtype.kind
    if kind in "US":
        return ". Files are read by keras_glow.images.load_image"
    if kind == "b":
        return f'. Convert by {name}.astype("uint8") * 255'
    if kind == "f" and array.size and array.min() >= 0:
        if array.max() <= 1:
            return f'. Convert by ({name} * 255).round().astype("uint8")'
        if array.max() <= 255:
            return f'. Convert by {name}.round().astype("uint8")'
    return ""


def check_batch(images, labels, image_shape, num_classes):
    """Refuses a batch of a dataset by shape and dtype, also while tracing.

    Its values are not known yet: see `nan_outside`.
    """
    expected = ", ".join(map(str, ("batch", *image_shape)))
    expected = f"integers 0..255 of shape ({expected})"
    if not hasattr(images, "shape"):
        refuse("x", f"batches of {expected}", images)
    try:
        shape = tuple(images.shape)
    except ValueError:  # TensorFlow may not know how many dimensions there are
        shape = (None,)
    if not keras.backend.is_int_dtype(images.dtype) or shape[1:] != tuple(
        image_shape
    ):
        hint = ""
        if shape == (None,) or None in shape[1:]:
            hint = f". What is not known, tf.ensure_shape tells: {image_shape}"
        raise ValueError(
            f"`x` is expected to be batches of {expected}. "
            f"Received: dtype={_dtype_name(images)}, shape={shape}{hint}"
        )
    if num_classes is None:
        return
    if labels is None:
        refuse("y", f"labels 0..{num_classes - 1} of the images", labels)
    if (
        not keras.backend.is_int_dtype(labels.dtype)
        or len(labels.shape) != 1
        or (shape[0] and labels.shape[0] not in (None, shape[0]))
    ):
        raise ValueError(
            "`y` is expected to be integer labels of shape (batch,), one for "
            f"each of {shape[0]} images. Received: "
            f"dtype={_dtype_name(labels)}, shape={tuple(labels.shape)}"
        )


def nan_outside(x, values, low, high):
    """`x`, with nan where `values` are outside low..high.

    A compiled program cannot raise an error. What it must not do is to go on
    with a wrong number: the loss becomes nan.

    Args:
        x: float tensor `(batch, height, width, channels)`.
        values: integer tensor that broadcasts against it, or `(batch,)`.
        low: int.
        high: int.
    """
    if values.ndim == 1:
        values = ops.reshape(values, (-1, 1, 1, 1))
    values = ops.cast(values, x.dtype)
    return ops.where((values < low) | (values > high), math.nan, x)


def is_dataset(x):
    """Whether `fit` is to take batches from x, and not x itself as a batch."""
    if isinstance(x, keras.utils.PyDataset):
        return True
    return (
        hasattr(x, "__iter__")
        and not hasattr(x, "shape")
        and not isinstance(x, (list, tuple, str, bytes, dict, set, frozenset))
    )


def check_data(x, y, image_shape, num_classes, names=("x", "y")):
    """What `fit` and `evaluate` take: arrays are checked, datasets left alone.

    Args:
        x: images, or a dataset.
        y: labels beside images, or None.
        image_shape: the shape of one image.
        num_classes: int, or None: then labels beside images are dropped.
        names: of the two arguments.

    Returns:
        Tuple of x and y.

    Raises:
        ValueError: naming the argument and what is wrong with it.
    """
    if is_dataset(x):
        if y is not None:
            refuse(names[1], "None beside a dataset, which yields labels", y)
        return x, None
    x = check_images(x, image_shape, names[0], least=1)
    if num_classes is None:
        return x, None
    return x, check_labels(y, len(x), num_classes, names[1])


def check_validation_data(data, image_shape, num_classes):
    """Returns `(x, y)` of what `fit` takes as `validation_data`."""
    name = "validation_data"
    x, y = data, None
    if isinstance(data, (list, tuple)):
        if len(data) not in (1, 2):
            refuse(name, "images, (images, labels) or a dataset", data)
        x, y = (*data, None)[:2]
    return check_data(x, y, image_shape, num_classes, (name, name))


def check_labels(labels, count, num_classes, name="labels"):
    """Refuses what are not labels of `count` images, or are not to be there.

    Args:
        labels: int array `(count,)`; None for a model without classes.
        count: int.
        num_classes: int, or None.
        name: of the argument.

    Returns:
        int32 array `(count,)`, or None.

    Raises:
        ValueError: if they are not as described.
    """
    if num_classes is None:
        if labels is not None:
            refuse(name, "None, for num_classes=None", labels)
        return None
    expected = f"{count} integers from 0 to {num_classes - 1}"
    if labels is None:
        refuse(name, f"given, {expected}", labels)
    array = _as_array(labels)
    if (
        array is None
        or array.shape != (count,)
        or array.dtype.kind not in "iu"
        or np.any((array < 0) | (array >= num_classes))
    ):
        refuse(name, expected, labels if array is None else array)
    return array.astype("int32")


def check_latents(z, dimensions=None, dtype="float32", name="z"):
    """Returns latents as a finite float array `(batch, dimensions)`."""
    any_length = "D" if dimensions is None else dimensions
    expected = f"finite floats of the shape (batch, {any_length})"
    array = check_floats(name, z, expected)
    if array.ndim != 2 or dimensions not in (None, array.shape[1]):
        refuse(name, expected, array)
    with np.errstate(over="ignore"):
        latents = array.astype(dtype)
    if not np.isfinite(latents).all():
        refuse(name, expected, array)
    return latents


def check_floats(name, value, expected="an array of floats"):
    """Returns a numpy array of numbers, finite or not."""
    array = _as_array(value)
    # The half precision of JAX and TensorFlow is no kind of numpy's.
    if array is not None and array.dtype.name == "bfloat16":
        array = array.astype("float32")
    if array is None or array.dtype.kind not in "iuf":
        refuse(name, expected, value if array is None else array)
    return array


def check_temperature(temperature, levels):
    """Returns one temperature for each level: float32 `(levels,)`."""
    array = _as_array(temperature)
    values = np.array(np.nan)
    if array is not None and array.dtype.kind in "iuf":
        with np.errstate(over="ignore"):
            values = array.astype("float32")
    if values.ndim == 0:
        values = np.full(levels, values)
    if values.shape != (levels,) or not np.all(
        (values >= 0) & np.isfinite(values)
    ):
        refuse(
            "temperature",
            f"a number >= 0, or a sequence of {levels}, one per level",
            temperature,
        )
    return values


def allocate_images(count, image_shape):
    """Returns an array for `count` images, not yet filled, if there is room."""
    high = MAX_SAMPLE_BYTES // math.prod(image_shape)
    try:
        count = check_integer("count", count, 0, high)
        return np.empty((count, *image_shape), "uint8")
    except (ValueError, MemoryError):
        expected = f"an integer 0..{high}, as many images as fit into 16 GiB"
        refuse("count", f"{expected} and into memory", count)


def check_loss(loss):
    """Refuses losses that compare with targets: latents have none."""
    if not (loss is None or isinstance(loss, StandardNormalNLL)):
        refuse("loss", "None or a keras_glow.losses.StandardNormalNLL", loss)


def _as_number(value):
    """A float, nan if it is no real number."""
    array = _as_array(value)
    if array is None or array.ndim or array.dtype.kind not in "iuf":
        return math.nan
    return float(array)


def _is_sequence(value):
    return hasattr(value, "__getitem__") and not isinstance(
        value, (str, bytes, dict)
    )


def _as_array(value):
    """A numpy array, or None of what is none; arrays are not copied."""
    if isinstance(value, np.ndarray):
        return value
    try:
        array = ops.convert_to_numpy(value)
    except Exception:
        # Objects of other people fail in many ways.
        return None
    return None if array.dtype == object else array


def _dtype_name(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)

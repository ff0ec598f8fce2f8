"""One-line errors for bad input: which argument, what was expected, what came.

Each check returns a plain value of the expected type, or raises a ValueError.
"""

import math
import operator
import os
import reprlib
import types
import typing

import numpy as np

# Keeps the keys (seed, stream, image) of `flow.noise.keyed_generators` apart.
MAX_SEED = 2**32 - 1

MAX_LINE = 500  # characters of another library's error
_short = reprlib.Repr()
_short.maxother = _short.maxstring = 80


def describe(value):
    """Any value in one short line."""
    if isinstance(value, np.ndarray) and value.ndim:
        text = f"{value.dtype} array of shape {value.shape}"
        if np.ma.is_masked(value):
            return f"{text}, {np.ma.count_masked(value)} values masked"
        if value.size and value.dtype.kind in "iuf":
            text += f" from {value.min()} to {value.max()}"
        return text
    if isinstance(value, (list, tuple)) and any(map(_is_tensor, value)):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, dict) and any(map(_is_tensor, value.values())):
        return f"a dict with {', '.join(map(repr, value))}"
    if _is_tensor(value):
        return f"{_dtype_name(value)} tensor of shape {shape_of(value)}"
    try:
        return " ".join(_short.repr(value).split())
    except ValueError:  # Python prints no integer of over 4300 digits
        return f"a large {type(value).__name__}"


def one_line(error):
    """What an exception says, in one line, or the name of its class."""
    lines = [line.strip() for line in str(error).splitlines()]
    text = " ".join(filter(None, lines))[:MAX_LINE]
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text or type(error).__name__


def printable_path(path):
    """A path, or its repr if it would not print as one line of text."""
    path = os.fsdecode(path)
    return path if path.isprintable() else repr(path)


def bad_input(line):
    """The ValueError to raise for bad input.

    To any other error that is raised in the `call` of a layer, Keras adds seven
    lines about its arguments: this one it passes on as it is.
    """
    error = ValueError(line)
    error._keras_call_info_injected = True
    return error


def refuse(name, expected, value, hint=""):
    """Raises the error that all checks have in common."""
    raise bad_input(
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
    number = as_number(value)
    if not 0 < number < math.inf:
        refuse(name, "a number > 0", value)
    return number


def check_fraction(name, value):
    """Returns a number >= 0 and < 1 as a float."""
    number = as_number(value)
    if not 0 <= number < 1:
        refuse(name, "a number from 0 to below 1", value)
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


class ImageFormat(typing.NamedTuple):
    """The images that a flow takes, as `Glow` describes them."""

    shape: tuple  # (height, width, channels)
    bits: int | None = 8  # per subpixel; None for floats

    @property
    def dtype(self):
        """The type of the images in NumPy."""
        if self.bits is None:
            return "float32"
        return "uint8" if self.bits <= 8 else "uint16"

    @property
    def limits(self):
        """The lowest and the highest value that a pixel may have."""
        if self.bits is None:
            return -math.inf, math.inf
        return 0, 2 ** max(self.bits, 8) - 1

    @property
    def grey_level(self):
        """The difference of 1 between two pixels, in continuous images."""
        return 1.0 if self.bits is None else 2.0 ** -max(self.bits, 8)

    def holds(self, kind):
        """Returns whether numbers of a kind, see `kind_of`, may be pixels."""
        return kind == "f" if self.bits is None else kind in "iu"

    def __str__(self):
        shape = ", ".join(map(str, ("batch", *self.shape)))
        numbers = "finite floats"
        if self.bits is not None:
            numbers = "integers {}..{}".format(*self.limits)
        return f"{numbers} of shape ({shape})"


def check_images(images, image_format, name="images", least=0):
    """Returns a batch of images as a plain array of their format's dtype.

    They may be an array or a tensor, or a list of images that make one; `least`
    is how many there have to be. Floats may stay float64.
    """
    expected = str(image_format)
    array = as_array(images)
    if array is not None and array.dtype.name == "bfloat16":
        array = array.astype("float32")
    if array is None:
        refuse(name, expected, images)
    if not image_format.holds(array.dtype.kind):
        value = array if array.ndim and array.dtype.kind in "biuf" else images
        refuse(name, expected, value, _conversion(name, array, image_format))
    if array.ndim != 4 or array.shape[1:] != tuple(image_format.shape):
        refuse(name, expected, array)
    if len(array) < least:
        refuse(name, f"{least} image or more, {expected}", array)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            refuse(name, expected, array)
        dtype = "float64" if array.dtype == "float64" else image_format.dtype
        return array.astype(dtype, copy=False)
    low, high = image_format.limits
    held = np.iinfo(array.dtype)
    sure = held.min >= low and held.max <= high
    if array.size and not sure and (array.min() < low or array.max() > high):
        refuse(name, expected, array)
    return array.astype(image_format.dtype, copy=False)


def _conversion(name, array, image_format):
    """How to make images of a format of what was given, as a hint."""
    kind = array.dtype.kind
    if image_format.bits is None:
        return f'. Convert by {name}.astype("float32")' if kind in "biu" else ""
    if image_format.bits > 8:
        return ""
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


def check_batch(images, y, image_format, conditions):
    """Refuses a batch of a dataset by shape and dtype, also while tracing.

    Its values are not known yet: see `flow.pixels.nan_where_outside`. The
    images may be a description of a tensor; for y see `Conditions.take_apart`.
    """
    shape = shape_of(images)
    expected = tuple(image_format.shape)
    if not image_format.holds(kind_of(images)) or shape[1:] != expected:
        hint = ""
        if shape == (None,) or None in shape[1:]:
            hint = f". What is not known, tf.ensure_shape tells: {expected}"
        refuse("x", f"batches of {image_format}", images, hint)
    num_classes, context_shape = conditions
    labels, context = conditions.take_apart(y, "y")
    each = f"one for each of {shape[0]} images"
    if num_classes is not None and (
        kind_of(labels) not in "iu"
        or not shape_fits(shape_of(labels), shape[:1])
    ):
        expected = f"labels 0..{num_classes - 1} of shape (batch,)"
        refuse("y", f"{expected}, {each}", labels)
    if context_shape is not None and (
        kind_of(context) not in "biuf"
        or not shape_fits(shape_of(context), (*shape[:1], *context_shape))
    ):
        refuse("y", f"{_numbers_of(context_shape)}, {each}", context)


def _numbers_of(context_shape, count="batch"):
    shape = ", ".join(map(str, (count, *context_shape)))
    return f"a context of finite numbers of shape ({shape})"


class Conditions(typing.NamedTuple):
    """What a flow wants to be told about its images, as `Glow` describes it.

    Arrays of it travel as a tuple: labels, a context, or both, in this order.
    """

    num_classes: int | None = None
    context_shape: tuple | None = None

    def check(self, labels, context, count, names=("labels", "context")):
        """Returns the tuple of arrays for `count` images, checked."""
        labels = check_labels(labels, count, self.num_classes, names[0])
        context = check_context(context, count, self.context_shape, names[1])
        return tuple(a for a in (labels, context) if a is not None)

    def check_each_or_one(self, labels, context, count):
        """Does the same; one label, or one context, is for all images."""

        def each(value, shape):
            if value is None or np.ndim(value) != len(shape):
                return value
            return np.broadcast_to(value, (count, *np.shape(value)))

        context = each(context, self.context_shape or ())
        return self.check(each(labels, ()), context, count)

    def zeros(self, count):
        """Returns the tuple of class 0, and of a context of zeros."""
        arrays = []
        if self.num_classes is not None:
            arrays.append(np.zeros(count, "int32"))
        if self.context_shape is not None:
            arrays.append(np.zeros((count, *self.context_shape), "float32"))
        return tuple(arrays)

    def names(self):
        """Returns the names of the arrays in the tuple."""
        pairs = zip(("labels", "context"), self, strict=True)
        return [name for name, wanted in pairs if wanted is not None]

    def put_together(self, y, context):
        """Returns what stands beside images, given the context by its name."""
        if context is None:
            return y
        if self.context_shape is None:
            refuse("context", "None, for context_shape=None", context)
        return context if self.num_classes is None else (y, context)

    def take_apart(self, y, name):
        """Returns the labels and the context in what stands beside images.

        For both it is `(labels, context)`, or a dict with these keys. What no
        flow with these conditions needs is dropped.
        """
        if self.num_classes is None:
            return None, (None if self.context_shape is None else y)
        if self.context_shape is None:
            return y, None
        if isinstance(y, dict) and set(y) == {"labels", "context"}:
            return y["labels"], y["context"]
        if not isinstance(y, (list, tuple)) or len(y) != 2:
            refuse(name, "(labels, context)", y)
        return tuple(y)

    @staticmethod
    def to_targets(arrays):
        """Returns what stands beside images, of the tuple of its arrays."""
        return tuple(arrays) if len(arrays) > 1 else (*arrays, None)[0]

    def open(self, y, count, name):
        """Returns the tuple of arrays in what stands beside images, checked."""
        return self.check(*self.take_apart(y, name), count, (name, name))


NO_CONDITIONS = Conditions()


def check_context(context, count, context_shape, name="context"):
    """Returns the context of images: floats `(count, *context_shape)`, or None.

    Integers and bools become floats.
    """
    if context_shape is None:
        if context is not None:
            refuse(name, "None, for context_shape=None", context)
        return None
    expected = _numbers_of(context_shape, count)
    array = check_floats(name, context, expected, "biuf")
    if array.dtype != "float64":
        array = array.astype("float32", copy=False)
    if array.shape != (count, *context_shape) or not np.isfinite(array).all():
        refuse(name, expected, array)
    return array


def check_labels(labels, count, num_classes, name="labels"):
    """Returns the labels of images: int32 `(count,)`, None without classes."""
    if num_classes is None:
        if labels is not None:
            refuse(name, "None, for num_classes=None", labels)
        return None
    expected = f"{count} integers from 0 to {num_classes - 1}"
    if labels is None:
        refuse(name, f"given, {expected}", labels)
    array = as_array(labels)
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
    if not shape_fits(array.shape, (None, dimensions)):
        refuse(name, expected, array)
    with np.errstate(over="ignore"):
        latents = array.astype(dtype)
    if not np.isfinite(latents).all():
        refuse(name, expected, array)
    return latents


def check_floats(name, value, expected="an array of floats", kinds="iuf"):
    """Returns a numpy array of numbers of these kinds, finite or not."""
    array = as_array(value)
    # The half precision of JAX and TensorFlow is no kind of numpy's.
    if array is not None and array.dtype.name == "bfloat16":
        array = array.astype("float32")
    if array is None or array.dtype.kind not in kinds:
        refuse(name, expected, value if array is None else array)
    return array


def as_number(value):
    """A float, nan if it is no real number."""
    plain = type(value) in (int, float)
    array = np.asarray(value) if plain else as_array(value)
    if array is None or array.ndim or array.dtype.kind not in "iuf":
        return math.nan
    return float(array)


def is_sequence(value):
    """Returns whether a value is a row of others, and no text or mapping."""
    return hasattr(value, "__getitem__") and not isinstance(
        value, (str, bytes, dict)
    )


def as_array(value):
    """A plain numpy array, or None of what is none.

    Plain is what every backend understands: no subclass, no objects, nothing
    masked, and the byte order of the machine. Plain arrays are not copied.
    """
    try:
        if not isinstance(value, np.ndarray):
            from keras import ops  # A file is read and checked without Keras.

            if hasattr(value, "nested_row_splits"):
                return None  # Keras would fill it up with zeros.
            value = ops.convert_to_numpy(value)
        if np.ma.is_masked(value):
            return None
        array = np.asarray(value)
        if array.dtype == object:
            array = np.array(array.tolist())
    except Exception:
        # Objects of other people fail in many ways.
        return None
    if array.dtype == object:
        return None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def plain_arrays(nested, name="inputs", tensors=False):
    """Returns nested tensors with their numpy arrays made plain.

    With `tensors` these become tensors too: Keras takes no mixture.
    """
    from keras import ops, tree

    def plain(value):
        if not isinstance(value, (np.ndarray, str, types.NoneType)):
            return value
        array = as_array(value) if isinstance(value, np.ndarray) else None
        if array is None:
            refuse(name, "arrays of numbers, none of them masked", value)
        if tensors and array.dtype.kind in "iuf":
            return ops.convert_to_tensor(array)
        return array

    return tree.map_structure(plain, nested)


def _is_tensor(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _dtype_name(tensor):
    """The name of a dtype of any backend, such as "uint8"."""
    dtype = tensor.dtype
    return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]


def kind_of(tensor):
    """NumPy's letter for the numbers in a tensor, "O" if it holds none."""
    if not _is_tensor(tensor):
        return "O"
    kinds = {"float": "f", "bfloat": "f", "int": "i", "uint": "u", "bool": "b"}
    return kinds.get(_dtype_name(tensor).rstrip("0123456789"), "O")


def shape_of(tensor):
    """A shape as a tuple, `(None,)` if TensorFlow does not know its length.

    What is no tensor has the shape `()`.
    """
    try:
        return tuple(tensor.shape) if _is_tensor(tensor) else ()
    except ValueError:
        return (None,)


def shape_fits(shape, expected):
    """Returns whether a shape is as expected; None is any size, in both."""
    return len(shape) == len(expected) and all(
        None in (size, wanted) or size == wanted
        for size, wanted in zip(shape, expected, strict=True)
    )

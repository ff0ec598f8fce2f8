"""The arguments of `Glow`, in one table.

The constructor, the strict reader of files and the runs of the command line all
read it.
"""

import math

from keras_glow.checks import (
    as_number,
    check_boolean,
    check_choice,
    check_fraction,
    check_integer,
    describe,
    is_sequence,
    refuse,
)
from keras_glow.flow import choices
from keras_glow.flow.levels import level_depths
from keras_glow.flow.weights_layout import weights_layout

MAX_DEPTH = 1024  # steps of flow, of a level
MAX_STEPS = 2048  # steps of flow, of all levels together
MAX_PARAMETERS = 2**31
# What these are mostly asked for by.
OF_SIZE = (
    *("image_shape", "levels", "depth", "width", "num_classes", "blocks"),
    "context_shape",
)
MAX_CONTEXT_SIZE = 2**16
MAX_NAME = 100


def _integer(low, high=None):
    return lambda name, value: check_integer(name, value, low, high)


def _choice(*choices):
    return lambda name, value: check_choice(name, value, choices)


def _or_none(check):
    return lambda name, value: None if value is None else check(name, value)


def _sizes(value, high=None):
    """Returns a tuple of integers >= 1, empty if the value is none."""
    try:
        return tuple(
            check_integer("size", size, 1, high)
            for size in (value if is_sequence(value) else ())
        )
    except ValueError:
        return ()


def _image_shape(name, value):
    sizes = _sizes(value)
    if len(sizes) != 3:
        refuse(name, "(height, width, channels), three integers >= 1", value)
    return sizes


def _depth(name, value):
    if not is_sequence(value):
        return check_integer(name, value, 1, MAX_DEPTH)
    depths = _sizes(value, MAX_DEPTH)
    if not depths:
        refuse(name, f"an integer 1..{MAX_DEPTH}, or one for each level", value)
    return depths


def _context_shape(name, value):
    sizes = _sizes(value, MAX_CONTEXT_SIZE)
    if len(sizes) not in (1, 3):
        expected = "(n,) or (height, width, channels), integers 1.."
        refuse(name, f"{expected}{MAX_CONTEXT_SIZE}", value)
    return sizes


def _weight(name, value):
    number = as_number(value)
    if not 0 <= number < math.inf:
        refuse(name, "a finite number >= 0", value)
    return number


def _names(name, value):
    if not is_sequence(value) or not all(type(v) is str for v in value):
        refuse(name, "a list of the names of layers", value)
    return tuple(value)


# The check of each argument: a function of its name and a value that returns a
# plain value, or raises a ValueError that names it. Defaults are in `Glow`.
ARGUMENTS = {
    "image_shape": _image_shape,
    "levels": _integer(1, 30),
    "depth": _depth,
    "width": _integer(1),
    "permutation": _choice(*choices.PERMUTATIONS),
    "coupling": _choice(*choices.COUPLINGS),
    "bits": _or_none(_integer(1, 16)),
    "num_classes": _or_none(_integer(1)),
    "seed": _integer(0, choices.MAX_WEIGHTS_SEED),
    "network_dtype": _choice(*choices.NETWORK_DTYPES),
    "memory": _choice(*choices.MEMORY),
    "scale": _choice(*choices.SCALES),
    "border": check_boolean,
    "class_priors": _choice(*choices.CLASS_PRIORS),
    "classifier_weight": _weight,
    "network": _choice(*choices.NETWORKS),
    "blocks": _integer(1, 64),
    "dropout": check_fraction,
    "frozen": _names,
    "context_shape": _or_none(_context_shape),
    "whiten": check_boolean,
    "class_couplings": check_boolean,
}
# The values of arguments that older files do not mention.
OLDER = {
    "border": False,
    "class_priors": "top",
    "classifier_weight": 0.0,
    "network": "paper",
    "blocks": 2,
    "dropout": 0.0,
    "frozen": (),
    "context_shape": None,
    "whiten": False,
    "class_couplings": False,
}


def check_arguments(arguments):
    """Checks the arguments of a `Glow`, each alone and then all together.

    Returns a dict of all of `ARGUMENTS` as plain values.

    Raises:
        ValueError: naming the argument that is not as described, or those that
            do not go together.
    """
    checked = {
        name: check(name, arguments[name]) for name, check in ARGUMENTS.items()
    }
    _check_together(**checked)
    layout = weights_layout({**checked, "dtype": "float32"})
    parameters = sum(math.prod(weight.shape) for weight in layout.values())
    if parameters > MAX_PARAMETERS:
        received = ", ".join(f"{name}={checked[name]}" for name in OF_SIZE)
        raise ValueError(
            f"`{'`, `'.join(OF_SIZE)}` are expected to ask for at most "
            f"{MAX_PARAMETERS:,} parameters. Received: {received}, which is "
            f"{parameters:.1e} parameters"
        )
    return checked


def check_name(name):
    """Returns the name of a model, short and printable.

    It stands in files and messages; printable text cannot steer a terminal.
    """
    if (
        not isinstance(name, str)
        or len(name) > MAX_NAME
        or not name.isprintable()
    ):
        refuse("name", f"a printable string of at most {MAX_NAME}", name)
    return name


def _check_together(
    image_shape,
    levels,
    depth,
    num_classes,
    classifier_weight,
    network,
    dropout,
    context_shape,
    class_couplings,
    **others,
):
    if classifier_weight and num_classes is None:
        refuse(
            "classifier_weight", "0, for num_classes=None", classifier_weight
        )
    if class_couplings:
        for unfit, hint in (
            (num_classes is None and "num_classes=None", ""),
            (context_shape and "a context_shape", ", which may hold the class"),
            # The latents that it guesses from would come from the class.
            (classifier_weight and "a classifier_weight", ""),
        ):
            if unfit:
                refuse("class_couplings", f"False, for {unfit}{hint}", True)
    if dropout and network != "residual":
        refuse("dropout", f"0, for network={network!r}", dropout)
    multiple, common = 2**levels, math.gcd(*image_shape[:2])
    if common % multiple:
        most = (common & -common).bit_length() - 1
        raise ValueError(
            "Height and width in `image_shape` are expected to be multiples of "
            f"2**levels = {multiple}. Received: "
            f"image_shape={describe(image_shape)}, for levels of {most} at most"
        )
    depths = level_depths(levels, depth)
    if len(depths) != levels:
        refuse("depth", f"a number for each of {levels} levels", depth)
    if sum(depths) > MAX_STEPS:
        raise ValueError(
            f"`levels` and `depth` are expected to ask for at most {MAX_STEPS} "
            f"steps of flow. Received: levels={levels}, depth={depth}"
        )

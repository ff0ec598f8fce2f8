"""Takes the weights of one flow over to another of other arguments."""

import re

import numpy as np
from keras import ops

from keras_glow.checks import refuse

# What sees new classes or a new context is new, and changes nothing at first; a
# classifier is, too.
NEW_WEIGHTS = re.compile(
    r"/class_bias$|^context_\d+/|/context_kernel$|^classifier/"
)
OF_LEVEL = re.compile(r"^(steps|split)_(\d+)/")
OF_POSITIONS = "prior/mu", "prior/log_sigma"


def transfer(model, other, arguments):
    """Copies all weights of one `Glow` to another: see `Glow.with_arguments`.

    `arguments` are those that differ, for messages.
    """
    own = {weight.path: weight for weight in model.weights}
    if other.levels > model.levels:  # the top is another one
        own = {p: w for p, w in own.items() if not p.startswith("prior/")}
    others = {weight.path: weight for weight in other.weights}
    new = [path for path in others if path not in own]
    known = all(_may_be_new(path, model.levels) for path in new)
    if not known or len(own) + len(new) != len(others):
        refuse("arguments", "such that all weights stay", arguments)
    for path, old in own.items():
        value, shape = ops.convert_to_numpy(old), others[path].shape
        if value.shape != shape and path in OF_POSITIONS:
            value = _of_other_positions(value, shape)
        if value.shape != shape:
            expected = f"such that {path} keeps its shape {old.shape}"
            refuse("arguments", expected, arguments)
        others[path].assign(value)


def _may_be_new(path, levels):
    """Returns whether a model of so many levels need not have a weight."""
    of_level = OF_LEVEL.match(path)
    if of_level:
        kind, level = of_level.groups()
        splits = kind == "split"
        if int(level) > levels - splits:  # the top level has no split
            return True
    return path.startswith("prior/") or bool(NEW_WEIGHTS.search(path))


def _of_other_positions(value, shape):
    """Returns the mean over the positions for each, and that of no class."""
    if value.shape[1:3] != shape[1:3]:
        value = value.mean((1, 2), keepdims=True)
    classes = shape[0] if len(value) == 1 else len(value)
    return np.broadcast_to(value, (classes, *shape[1:3], value.shape[3]))

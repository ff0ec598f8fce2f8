"""Takes the weights of one flow over to another of other arguments."""

import re

import numpy as np
from keras import ops

from keras_glow.checks import refuse

# What sees new classes or a new context is new, and changes nothing at first.
NEW_WEIGHTS = re.compile(r"/class_bias$|^context_\d+/|/context_kernel$")


def transfer(model, other, arguments):
    """Copies all weights of one `Glow` to another: see `Glow.with_arguments`.

    `arguments` are those that differ, for messages.
    """
    own = [weight.path for weight in model.weights]
    kept = [
        weight
        for weight in other.weights
        if weight.path in own or not NEW_WEIGHTS.search(weight.path)
    ]
    if own != [weight.path for weight in kept]:
        refuse("arguments", "such that all weights stay", arguments)
    for old, new in zip(model.weights, kept, strict=True):
        value = ops.convert_to_numpy(old)
        priors = "prior/mu", "prior/log_sigma"
        if old.shape != new.shape and old.path in priors:
            if value.shape[1:3] != new.shape[1:3]:
                value = value.mean((1, 2), keepdims=True)
            classes = new.shape[0] if len(value) == 1 else len(value)
            shape = classes, *new.shape[1:3], value.shape[3]
            value = np.broadcast_to(value, shape)
        if value.shape != new.shape:
            expected = f"such that {old.path} keeps its shape {old.shape}"
            refuse("arguments", expected, arguments)
        new.assign(value)

"""The layout of the weights file of a `Glow`, derived from its configuration.

A foreign file is compared with this layout before a model is built from it.
"""

import itertools
import math
import typing
import warnings

import numpy as np

from keras_glow.flow.choices import CONTEXT_CHANNELS
from keras_glow.flow.levels import level_shapes

MAX_STORED_LOG_SCALE = 20.0
MAX_STORED_LOG_UNIT = 45.0  # of data in units of their own

# Each rule is a condition on a weight, in words and as a test of an array.
RULES = {
    "finite": lambda v: np.isfinite(v).all(),
    f"log-scales within {MAX_STORED_LOG_SCALE}": lambda v: np.all(
        np.abs(v) <= MAX_STORED_LOG_SCALE
    ),
    f"log-scales within {MAX_STORED_LOG_UNIT}": lambda v: np.all(
        np.abs(v) <= MAX_STORED_LOG_UNIT
    ),
    "0 or 1": lambda v: np.isin(v, (0, 1)).all(),
    "1 or -1": lambda v: np.isin(v, (-1, 1)).all(),
    "a permutation": lambda v: np.array_equal(np.sort(v), np.arange(len(v))),
    "a permutation matrix": lambda v: (
        np.isin(v, (0, 1)).all() and np.all([v.sum(0) == 1, v.sum(1) == 1])
    ),
    "integers of 32 bits": lambda v: np.all((v >= 0) & (v < 2**32)),
}
FINITE, LOG_SCALES, LOG_UNITS, FLAG, SIGNS, PERMUTATION, MATRIX, STATE = RULES


class Weight(typing.NamedTuple):
    """A dataset of a weights file; `rule` is a key of `RULES`."""

    shape: tuple
    dtype: str
    rule: str = FINITE

    @property
    def bytes(self):
        """Returns its size in the file."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def weights_layout(config):
    """Returns every dataset of a weights file, except those of the optimiser.

    Args:
        config: dict, as `Glow.get_config` returns it.

    Returns:
        Dict of `Weight` by name. Keras names a dataset by the attributes that
        lead to its layer, and by its number among the layer's weights:
        trainable ones first.
    """
    found = {"vars/train_noise": Weight((2,), "int64", STATE)}

    def add(layer, *weights):
        for number, weight in enumerate(weights):
            found[f"{layer}/vars/{number}"] = weight

    def floats(*shape, rule=FINITE):
        return Weight(shape, config["dtype"], rule)

    def kernel(channels, outputs):
        return floats(3, 3, channels + config["border"], outputs)

    def add_actnorm(layer, channels, rule=LOG_SCALES):
        log_scale, bias = floats(channels, rule=rule), floats(channels)
        add(layer, log_scale, bias, Weight((), "int32", FLAG))

    def add_permutation(layer, c):
        if config["permutation"] == "shuffle":
            add(layer, Weight((c,), "int32", PERMUTATION))
        elif config["permutation"] == "invertible_conv":
            log_s, lower_upper = floats(c, rule=LOG_SCALES), 2 * [floats(c, c)]
            p, sign = floats(c, c, rule=MATRIX), floats(c, rule=SIGNS)
            add(layer, log_s, *lower_upper, p, sign)

    context_shape = config["context_shape"]
    hidden, features = CONTEXT_CHANNELS

    def seen(outputs):  # of the features of a context, by another layer
        return [floats(features, outputs)] if context_shape else []

    def add_context(layer):
        if len(context_shape) == 1:
            channels, size = context_shape[0], ()
        else:
            channels, size = 4 * context_shape[-1], (3, 3)
        first = floats(*size, channels, hidden), floats(hidden)
        add(layer, *first, floats(*size, hidden, features), floats(features))
        add_actnorm(f"{layer}/norm", channels)

    def add_coupling(layer, channels):
        width, half = config["width"], channels // 2
        outputs = (channels - half) * (1 + (config["coupling"] == "affine"))
        first, last = kernel(half, width), kernel(width, outputs)
        network = f"{layer}/network"
        if config["network"] == "paper":
            middle = floats(width, width)
            add(network, first, middle, last, floats(outputs), *seen(width))
            add_actnorm(f"{network}/norm_1", width)
            add_actnorm(f"{network}/norm_2", width)
            return
        bias = floats(width)
        add(network, first, bias, last, floats(outputs), *seen(width))
        for block in itertools.islice(
            _numbered(f"{network}/blocks/gated_block"), config["blocks"]
        ):
            gate = floats(width, 2 * width), floats(2 * width)
            add(block, kernel(width, width), floats(width), *gate)

    if config["bits"] is None:
        channels = config["image_shape"][-1]
        add_actnorm("bijections/standardize", channels, LOG_UNITS)
    steps, splits, contexts = map(
        _numbered,
        (
            "bijections/flow_step",
            "bijections/split",
            "context_networks/context_network",
        ),
    )
    levels = level_shapes(config["image_shape"], config["levels"])
    for level in levels:
        if context_shape:
            add_context(next(contexts))
        for _ in range(config["depth"]):
            step = next(steps)
            add_actnorm(f"{step}/actnorm", level.channels)
            add_permutation(f"{step}/permutation", level.channels)
            add_coupling(f"{step}/coupling", level.channels)
        if level is not levels[-1]:
            outputs = 2 * level.latent_channels
            kept = level.channels - level.latent_channels
            split = [kernel(kept, outputs), floats(outputs)]
            if config["num_classes"] and config["class_priors"] == "all":
                split.append(floats(config["num_classes"], outputs))
            add(next(splits), *split, *seen(outputs))
    top = levels[-1].latent_shape
    prior = floats(config["num_classes"] or 1, *top)
    vector = context_shape and len(context_shape) == 1
    outputs = 2 * (math.prod(top) if vector else top[-1])
    add("bijections/gaussian_prior", prior, prior, *seen(outputs))
    if config["classifier_weight"]:
        classes = config["num_classes"]
        add("classifier", floats(top[-1], classes), floats(classes))
    return found


def optimizer_layout(optimizer):
    """Returns the datasets of an optimiser's state, none if it is None."""
    found, layer = {}, "optimizer"
    while optimizer is not None:
        store = {}
        optimizer.save_own_variables(store)
        for name, value in store.items():
            weight = Weight(value.shape, str(value.dtype))
            found[f"{layer}/vars/{name}"] = weight
        optimizer = getattr(optimizer, "inner_optimizer", None)
        layer = f"{layer}/inner_optimizer"
    return found


def warn_if_refused(model, path):
    """Warns before a file is written that the strict loader would refuse.

    Nothing is lost: `keras.saving.load_model` reads it.

    Args:
        model: a `Glow`.
        path: of the file.
    """
    for weight in model.weights:
        rule = LOG_SCALES if weight.name in ("log_scale", "log_s") else FINITE
        if weight.path == "standardize/log_scale":
            rule = LOG_UNITS
        if not RULES[rule](weight.numpy()):
            warnings.warn(
                f"{path} will be refused by keras_glow.load_model: weight "
                f"{weight.path} is expected to be {rule}",
                stacklevel=3,
            )
            return


def _numbered(name):
    """Yields the names that Keras gives to layers of one class: a, a_1, a_2."""
    yield name
    for number in itertools.count(1):
        yield f"{name}_{number}"

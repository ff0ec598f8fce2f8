"""The layout of the weights file of a `Glow`, derived from its configuration.

A foreign file is compared with this layout before a model is built from it.
"""

import itertools
import math
import typing
import warnings

import numpy as np

from keras_glow.flow.choices import CONTEXT_CHANNELS
from keras_glow.flow.levels import level_depths, level_shapes

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
    layout = _Layout(config)
    if config["bits"] is None:
        channels = config["image_shape"][-1]
        layout.add_actnorm("bijections/standardize", channels, LOG_UNITS)
    steps = _numbered("bijections/flow_step")
    splits = _numbered("bijections/split")
    contexts = _numbered("context_networks/context_network")
    levels = level_shapes(config["image_shape"], config["levels"])
    depths = level_depths(len(levels), config["depth"])
    for level, depth in zip(levels, depths, strict=True):
        for step in itertools.islice(steps, depth):
            layout.add_step(step, level.channels)
        if level is not levels[-1]:
            layout.add_split(next(splits), level)
        if layout.context:
            layout.add_context_network(next(contexts))
    top = levels[-1].latent_shape
    layout.add_prior("bijections/gaussian_prior", top)
    if config["classifier_weight"]:
        weights = layout.floats(top[-1], config["num_classes"])
        biases = layout.floats(config["num_classes"])
        layout.add("classifier", weights, biases)
    return layout.found


class _Layout:
    """Gathers the datasets of the layers of a model."""

    def __init__(self, config):
        self.config = config
        self.found = {"vars/train_noise": Weight((2,), "int64", STATE)}
        self.context = config["context_shape"] or ()
        if config["class_couplings"]:
            self.context = (config["num_classes"],)
        self.vector = len(self.context) == 1

    def add(self, layer, *weights):
        for number, weight in enumerate(weights):
            self.found[f"{layer}/vars/{number}"] = weight

    def floats(self, *shape, rule=FINITE):
        return Weight(shape, self.config["dtype"], rule)

    def kernel(self, channels, outputs):
        return self.floats(3, 3, channels + self.config["border"], outputs)

    def context_kernel(self, outputs):
        """Returns the kernel that reads the features of a context, if any."""
        _, features = CONTEXT_CHANNELS
        return [self.floats(features, outputs)] if self.context else []

    def add_actnorm(self, layer, channels, rule=LOG_SCALES):
        log_scale = self.floats(channels, rule=rule)
        bias = self.floats(channels)
        self.add(layer, log_scale, bias, Weight((), "int32", FLAG))

    def add_step(self, step, channels):
        self.add_actnorm(f"{step}/actnorm", channels)
        self.add_permutation(f"{step}/permutation", channels)
        outputs = channels - channels // 2
        if self.config["coupling"] == "affine":
            outputs *= 2
        self.add_network(f"{step}/coupling/network", channels // 2, outputs)

    def add_permutation(self, layer, c):
        floats = self.floats
        if self.config["permutation"] == "shuffle":
            self.add(layer, Weight((c,), "int32", PERMUTATION))
        elif self.config["permutation"] == "invertible_conv":
            log_s, lower_upper = floats(c, rule=LOG_SCALES), 2 * [floats(c, c)]
            p, sign = floats(c, c, rule=MATRIX), floats(c, rule=SIGNS)
            self.add(layer, log_s, *lower_upper, p, sign)

    def add_network(self, network, channels, outputs):
        width, floats = self.config["width"], self.floats
        first, last = self.kernel(channels, width), self.kernel(width, outputs)
        paper = self.config["network"] == "paper"
        middle = floats(width, width) if paper else floats(width)
        context = self.context_kernel(width)
        self.add(network, first, middle, last, floats(outputs), *context)
        if paper:
            self.add_actnorm(f"{network}/norm_1", width)
            self.add_actnorm(f"{network}/norm_2", width)
            return
        for block in itertools.islice(
            _numbered(f"{network}/blocks/gated_block"), self.config["blocks"]
        ):
            gate = floats(width, 2 * width), floats(2 * width)
            self.add(block, self.kernel(width, width), floats(width), *gate)

    def add_split(self, layer, level):
        classes, outputs = self.config["num_classes"], 2 * level.latent_channels
        kept = level.channels - level.latent_channels
        weights = [self.kernel(kept, outputs), self.floats(outputs)]
        if classes and self.config["class_priors"] == "all":
            weights.append(self.floats(classes, outputs))
        self.add(layer, *weights, *self.context_kernel(outputs))

    def add_prior(self, layer, shape):
        weight = self.floats(self.config["num_classes"] or 1, *shape)
        outputs = 2 * (math.prod(shape) if self.vector else shape[-1])
        self.add(layer, weight, weight, *self.context_kernel(outputs))

    def add_context_network(self, layer):
        hidden, features = CONTEXT_CHANNELS
        channels, size = self.context[-1], ()
        if not self.vector:
            channels, size = 4 * channels, (3, 3)
        for_hidden = self.floats(*size, channels, hidden), self.floats(hidden)
        last = self.floats(*size, hidden, features), self.floats(features)
        self.add(layer, *for_hidden, *last)
        self.add_actnorm(f"{layer}/norm", channels)


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

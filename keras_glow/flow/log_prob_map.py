"""Where in an image its log-density comes from."""

import math
import weakref

import keras
from keras import ops

from keras_glow.checks import NO_CONDITIONS
from keras_glow.flow.architecture import given_to
from keras_glow.flow.encoder import FlowModel
from keras_glow.layers.sequence import named_parts, walk
from keras_glow.losses import LOG_2PI

_mappers = weakref.WeakKeyDictionary()


def mapper(flow):
    """Returns the model from a continuous image to its log-density map.

    It is built when it is first asked for: most flows never need it. It has the
    inputs of the `scorer`; its output is `(batch, height, width)` in nats.
    """
    if flow not in _mappers:
        layer = LogProbMap(
            flow.bijections,
            flow.context_networks,
            flow.conditions,
            dtype=flow.dtype,
        )
        inputs = flow.scorer.input
        outputs = layer(*keras.tree.flatten(inputs))
        _mappers[flow] = FlowModel(inputs, outputs, name=f"{flow.name}_mapper")
    return _mappers[flow]


class LogProbMap(keras.layers.Layer):
    """Spreads the log-density of images over their pixels.

    It sums the log-density of each standardised latent and the log-determinant
    of each bijection, at the position that they belong to. What belongs to a
    position of a coarser level is shared equally by the pixels that it stands
    for; a log-determinant that is not known by position, by all pixels.

    Args:
        bijections: list of `Bijection`, in the order of encoding.
        context_networks: list of the `ContextNetwork` of each level, or empty.
        conditions: `Conditions`.

    Call arguments:
        x: float tensor `(batch, height, width, channels)`.
        *values: tensors of the conditions.

    Returns:
        Float tensor `(batch, height, width)`, in nats.
    """

    def __init__(
        self,
        bijections,
        context_networks=(),
        conditions=NO_CONDITIONS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bijections = bijections
        self.context_networks = context_networks
        self.conditions = conditions
        self.built = True

    def compute_output_spec(self, x, *values):
        return keras.KerasTensor(x.shape[:-1], self.compute_dtype)

    def call(self, x, *values):
        given = given_to(self.context_networks, self.conditions, values)
        size = x.shape[1:-1]
        totals = {}  # by the height and width of what they are known for

        def add(values):
            if values.ndim == 4:
                values = ops.sum(values, axis=-1)
            known = values.shape[1:]
            totals[known] = totals.get(known, 0.0) + values

        parts = named_parts(self.bijections).values()
        for _, _, z, log_det in walk(parts, x, given, summed=False):
            add(log_det)
            x, *latents = keras.tree.flatten(z)
            for latent in latents:
                add(_normal(latent))
        add(_normal(x))
        return sum(_spread(values, *size) for values in totals.values())


def _normal(z):
    return -0.5 * (ops.square(z) + LOG_2PI)


def _spread(values, height, width):
    """Spreads `(batch, ...)` of fewer positions: `(batch, height, width)`."""
    if values.ndim == 1:
        values = values[:, None, None]
    factors = height // values.shape[1], width // values.shape[2]
    for axis, factor in enumerate(factors, 1):
        values = ops.repeat(values, factor, axis=axis)
    return values / math.prod(factors)

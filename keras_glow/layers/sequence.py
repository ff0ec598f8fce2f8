"""Walks through a sequence of bijections, there and back."""

import typing

import keras
import numpy as np
from keras import ops

from keras_glow.backend.keras_internals import inner_layers


class Given(typing.NamedTuple):
    """What images are conditioned on, as their layers take it."""

    labels: typing.Any = None  # int tensor `(batch,)`
    features: typing.Any = None  # of a context, by `Bijection.level`


NOTHING = Given()


def named_parts(bijections):
    """Returns all bijections by name, with steps of flow taken apart.

    Returns:
        Dict of `Bijection`, with names like `squeeze_1` or `step_2_1/coupling`
        (the coupling of step 1 in level 2).
    """
    return {
        bijection.name
        if part is bijection
        else f"{bijection.name}/{part.name}": part
        for bijection in bijections
        for part in bijection.parts()
    }


def named_layers(layers, prefix=""):
    """Yields all layers by name, with those inside them.

    Names are like `step_2_1` and, inside it, `step_2_1/coupling/network`.
    """
    for layer in layers:
        name = prefix + layer.name
        yield name, layer
        yield from named_layers(inner_layers(layer), f"{name}/")


def walk(bijections, x, given=NOTHING, training=None, **kwargs):
    """Calls one bijection after another.

    Args:
        bijections: iterable of `Bijection`, in the order of encoding.
        x: float tensor `(batch, height, width, channels)`, symbolic or not.
        given: `Given`, for those that are conditioned on anything.
        training: bool, whether to compute as in training.
        **kwargs: further arguments of each call.

    Yields:
        The bijection, its input, its output and the log-determinant of all
        bijections up to here, `(batch,)` in nats. After a `Split`, whose output
        is `[kept, latent]`, the kept half goes on.
    """
    log_det = 0.0
    for bijection in bijections:
        inputs = inputs_of(bijection, x, given)
        z, log_det = bijection(
            inputs, log_det=log_det, training=training, **kwargs
        )
        yield bijection, x, z, log_det
        x = z[0] if isinstance(z, list) else z


def round_trip(bijections, x, given=NOTHING, training=None):
    """Goes through bijections in a row, then back through all of them.

    On the way back each gets the result of the previous inverse, so errors add
    up as they do in decoding. The latent that a `Split` lets out waits for the
    way back. Call it eagerly; for the arguments see `walk`.

    Yields:
        From the last bijection to the first: the bijection, its input, its
        output, and the input that came back.
    """
    passed = list(walk(bijections, x, given, training=training))
    back = passed[-1][2] if passed else x
    back = back[0] if isinstance(back, list) else back
    for bijection, x, z, _ in reversed(passed):
        out = [back, *z[1:]] if isinstance(z, list) else back
        out = inputs_of(bijection, out, given)
        back = bijection(out, inverse=True, training=training)
        yield bijection, x, z, back


def inputs_of(bijection, tensor, given):
    """Returns x or z, followed by what a bijection is conditioned on."""
    more = [
        given.labels if name == "labels" else given.features[bijection.level]
        for name in bijection.conditioned_on
    ]
    return [*keras.tree.flatten(tensor), *more] if more else tensor


def relative_error(expected, actual):
    """Returns max |actual - expected| / max |expected|, nan if not finite."""
    expected, actual = (
        ops.convert_to_numpy(tensor).astype("float64")
        for tensor in (expected, actual)
    )
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("nan")
    error = np.max(np.abs(actual - expected))
    return float(error / max(np.max(np.abs(expected)), 1e-30))

"""Through bijections and all the way back, and how far off what comes back."""

import keras
import numpy as np
from keras import ops


def there_and_back(bijections, x, labels=None, training=None):
    """Goes through bijections in a row, then back through all of them.

    On the way back each is given what the one before it gave back, so errors
    add up as they do in decoding. Call it eagerly.

    Args:
        bijections: `Bijection` layers in the order of encoding. What a `Split`
            lets out waits for the way back.
        x: float tensor `(batch, height, width, channels)`.
        labels: int array `(batch,)`, for the priors with classes.
        training: bool, whether to compute as in training.

    Yields:
        From the last bijection to the first: the bijection, its input, its
        output, and what came back of its input.
    """
    passed = []
    for bijection in bijections:
        z, _ = apply(bijection, x, labels, log_det=0.0, training=training)
        passed.append((bijection, x, z))
        x = z[0] if isinstance(z, list) else z
    back = x
    for bijection, x, z in reversed(passed):
        out = [back, *z[1:]] if isinstance(z, list) else back
        back = apply(bijection, out, labels, inverse=True, training=training)
        yield bijection, x, z, back


def apply(bijection, tensor, labels=None, **kwargs):
    """Calls a bijection, with the labels if it takes any."""
    if getattr(bijection, "num_classes", None):
        tensor = [*keras.tree.flatten(tensor), labels]
    return bijection(tensor, **kwargs)


def relative_error(expected, actual):
    """Largest |actual - expected| / largest |expected|; nan if not finite."""
    expected, actual = (
        ops.convert_to_numpy(tensor).astype("float64")
        for tensor in (expected, actual)
    )
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        return float("nan")
    error = np.max(np.abs(actual - expected))
    return float(error / max(np.max(np.abs(expected)), 1e-30))

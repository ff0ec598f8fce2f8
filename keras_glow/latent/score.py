"""Computes the gradient of the log-likelihood, and takes a step along it."""

import weakref

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_glow.backend import compile_function, differentiate
from keras_glow.checks import (
    check_floats,
    check_integer,
    check_positive,
    refuse,
)
from keras_glow.data import padded_batches
from keras_glow.flow.prediction import with_conditions

# A compiled function for each `Glow`, as long as that exists.
_gradients = weakref.WeakKeyDictionary()


def score(
    model: keras.Model,
    x: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    batch_size: int = 32,
    context: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Compute the score `grad log p(x)` of continuous images by autodiff.

    Args:
        model: a `Glow`.
        x: float array `(batch, height, width, channels)`, continuous images in
            [-0.5, 0.5) as `model.dequantize` gives them.
        labels: int array `(batch,)`, for a model with classes.
        batch_size: int, images that are processed at once.
        context: array `(batch, *context_shape)`, for a model with a context.

    Returns:
        Float array shaped like x, in nats per unit of x (256 grey levels for up
        to 8 bits).

    Raises:
        ValueError: naming the argument that is not as described.
    """
    x = check_floats("x", x).astype(model.dtype)
    if x.ndim != 4 or x.shape[1:] != model.image_shape:
        refuse("x", f"floats of the shape (batch, *{model.image_shape})", x)
    given = model.conditions.check(labels, context, len(x))
    batch_size = check_integer("batch_size", batch_size, 1)
    if model not in _gradients:
        _gradients[model] = _compile_gradient(model.scorer)
    weights = [variable.value for variable in model.scorer.variables]
    scores = np.empty_like(x)
    for rows in padded_batches(len(x), batch_size):
        inputs = [ops.convert_to_tensor(a[rows]) for a in (x, *given)]
        gradient = _gradients[model](weights, *inputs)
        scores[rows] = ops.convert_to_numpy(gradient)
    return scores


def _compile_gradient(scorer):
    """Return a function of weights, images and conditions to the score.

    The weights are arguments, since a compiled program of JAX would keep those
    of the first call as constants.
    """

    @compile_function
    def gradient(weights, x, *given):
        def log_prob(x):
            state = zip(scorer.variables, weights, strict=True)
            with keras.StatelessScope(list(state)):
                values = scorer(with_conditions(x, given))
            return (values,), values

        ones = ops.ones_like(x[:, 0, 0, 0])
        _, (gradient,) = differentiate(log_prob, [x], (ones,))
        return gradient

    return gradient


def denoise(
    model: keras.Model,
    images: npt.ArrayLike,
    sigma: float,
    labels: npt.ArrayLike | None = None,
    batch_size: int = 32,
    context: npt.ArrayLike | None = None,
) -> np.ndarray:
    """Remove noise from images by one step along the score.

    The step is Tweedie's formula, `x + sigma**2 grad log p(x)`: it gives the
    mean of all images that may lie behind the noisy one, if p is the density of
    noisy images. A model of clean images does not know the noise. For it the
    formula holds to first order only, that is, as long as the noise is small
    beside the randomness that the model itself sees in its images (in faces,
    one or two grey levels); with more noise the step goes too far.

    Args:
        model: a `Glow`, best trained on images with this noise.
        images: integers 0..255, `(batch, height, width, channels)`.
        sigma: float > 0, standard deviation of the noise in grey levels, or in
            the units of floats.
        labels: int array `(batch,)`, for a model with classes.
        batch_size: int, images that are processed at once.
        context: array `(batch, *context_shape)`, for a model with a context.

    Returns:
        Array like the images.

    Raises:
        ValueError: naming the argument that is not as described.

    Reference:
        Efron, 2011, Tweedie's Formula and Selection Bias; Zhai et al., 2024,
        Normalizing Flows are Capable Generative Models,
        https://arxiv.org/abs/2412.06329, 3.3 (of a flow).
    """
    sigma = check_positive("sigma", sigma) * model.image_format.grey_level
    x = model.dequantize(images, seed="center")
    gradient = score(model, x, labels, batch_size, context)
    return model.quantize(x + sigma**2 * gradient)

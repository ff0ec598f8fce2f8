"""The gradient of the log-likelihood, and a step along it."""

import numpy as np
from keras import ops

from keras_glow.backend import compile_function, differentiate
from keras_glow.checks import (
    check_floats,
    check_integer,
    check_labels,
    check_positive,
    refuse,
)
from keras_glow.data import equal_batches


def score(model, x, labels=None, batch_size=32):
    """The score `grad log p(x)` of continuous images, exact by autodiff.

    Args:
        model: a `Glow`.
        x: float array `(batch, height, width, channels)`, continuous images in
            [-0.5, 0.5) as `model.dequantize` gives them.
        labels: int array `(batch,)`, for a model with classes.
        batch_size: int, images that are looked at at once.

    Returns:
        Float array shaped like x, in nats per unit of x (256 grey levels).

    Raises:
        ValueError: naming the argument that is not as described.
    """
    x = check_floats("x", x).astype(model.dtype)
    if x.ndim != 4 or x.shape[1:] != model.image_shape:
        refuse("x", f"floats of the shape (batch, *{model.image_shape})", x)
    labels = check_labels(labels, len(x), model.num_classes)
    batch_size = check_integer("batch_size", batch_size, 1)

    @compile_function
    def gradient(x, *labels):
        def log_prob(x):
            values = model.scorer([x, *labels] if labels else x)
            return (values,), values

        return differentiate(log_prob, [x], (ops.ones_like(x[:, 0, 0, 0]),))[1]

    gradients = np.empty_like(x)
    for rows in equal_batches(len(x), batch_size):
        inputs = [x[rows]] if labels is None else [x[rows], labels[rows]]
        (found,) = gradient(*map(ops.convert_to_tensor, inputs))
        gradients[rows] = ops.convert_to_numpy(found)
    return gradients


def denoise(model, images, sigma, labels=None, batch_size=32):
    """Takes noise out of images by one step along the score.

    `x + sigma**2 grad log p(x)`, Tweedie's formula: the mean of all images that
    may lie behind the noisy one, if p is the density of noisy images. A model
    of clean images has none of the noise: for it the step holds to first order,
    so for noise that is small beside what the model itself takes for random
    (in faces, one or two grey levels); with more it goes too far.

    Args:
        model: a `Glow`, best trained on images with this noise.
        images: integers 0..255, `(batch, height, width, channels)`.
        sigma: float > 0, standard deviation of the noise in grey levels.
        labels: int array `(batch,)`, for a model with classes.
        batch_size: int, images that are looked at at once.

    Returns:
        uint8 array shaped like the images.

    Raises:
        ValueError: naming the argument that is not as described.

    Reference:
        Efron, 2011, Tweedie's Formula and Selection Bias; Zhai et al., 2024,
        Normalizing Flows are Capable Generative Models,
        https://arxiv.org/abs/2412.06329, 3.3 (of a flow).
    """
    variance = (check_positive("sigma", sigma) / 256) ** 2
    x = model.dequantize(images, seed="center")
    return model.quantize(x + variance * score(model, x, labels, batch_size))

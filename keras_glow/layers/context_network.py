"""What one level of a flow sees of a context."""

import keras
import numpy as np
from keras import ops

from keras_glow.backend import relu
from keras_glow.layers.actnorm import ActNorm
from keras_glow.layers.convolution import (
    biased,
    convolve,
    kernel_shape,
    pointwise,
)

HIDDEN_CHANNELS = 64
FEATURE_CHANNELS = 32


@keras.saving.register_keras_serializable(package="keras_glow")
class ContextNetwork(keras.layers.Layer):
    """Computes features of a context, for all layers of one level of a flow.

    An image is resized to twice the height and width of the level, and
    squeezed. Two convolutions follow. A vector is an image of one pixel. What
    reads the features begins with a kernel of zeros, so a new flow does not
    depend on its context.

    Before them each channel is centred and scaled by an `ActNorm`, set from the
    first contexts, and compressed: by `sign(x) log(1 + abs(x))` a value far
    from what was seen then, such as that of a rare attribute, stays small.

    Args:
        size: (height, width) of the level's steps of flow.
        seed: int 0..2**32 - 1, or None for other initial kernels each time.
        num_classes: int, or None. With it the context is an integer tensor
            `(batch,)` of labels, read as a vector of zeros and a one.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        context: float tensor `(batch, n)` or `(batch, any, any, channels)`.

    Returns:
        Float tensor `(batch, height, width, FEATURE_CHANNELS)`; of vectors,
        with a height and width of 1.
    """

    def __init__(self, size, seed=None, num_classes=None, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(size)
        self.seed = seed
        self.num_classes = num_classes
        self.norm = ActNorm(name="norm", dtype=self.dtype)

    def build(self, context_shape):
        if self.num_classes:
            context_shape = (None, self.num_classes)
        vector = len(context_shape) == 2
        channels = context_shape[-1] * (1 if vector else 4)
        size = (1, 1) if vector else self.size
        self.norm.build((None, *size, channels))

        def add_convolution(channels, outputs, initializer, prefix=""):
            shape = kernel_shape(channels, outputs, border=False)
            return (
                self.add_weight(
                    shape[2:] if vector else shape,
                    initializer,
                    name=f"{prefix}kernel",
                ),
                self.add_weight((outputs,), "zeros", name=f"{prefix}bias"),
            )

        self.first = add_convolution(
            channels, HIDDEN_CHANNELS, keras.initializers.HeNormal(self.seed)
        )
        self.last = add_convolution(
            HIDDEN_CHANNELS,
            FEATURE_CHANNELS,
            keras.initializers.LecunNormal(self.seed),
            "last_",
        )

    def call(self, context):
        if self.num_classes:
            context = ops.one_hot(
                context, self.num_classes, dtype=self.compute_dtype
            )
        if context.ndim == 2:
            convolution, x = pointwise, context[:, None, None]
        else:
            convolution = convolve
            height, width = self.size
            x = resized(context, 2 * height, 2 * width)
            x = ops.space_to_depth(x, 2, data_format="channels_last")
        x, _ = self.norm(x, log_det=0.0)
        x = ops.sign(x) * ops.log(1 + ops.abs(x))
        x = relu(biased(convolution, x, *self.first))
        return biased(convolution, x, *self.last)

    def get_config(self):
        own = {"size": self.size, "seed": self.seed}
        return {**super().get_config(), **own, "num_classes": self.num_classes}


def resized(images, height, width):
    """Resizes images linearly, with averages where they get smaller.

    Written as two matrix products, it is the same on every backend, which the
    resizing of `keras.ops` is not.
    """
    _, rows, columns, _ = images.shape
    for old, new, product in (
        (rows, height, "bhwc,hk->bkwc"),
        (columns, width, "bhwc,wk->bhkc"),
    ):
        if old != new:
            matrix = ops.convert_to_tensor(_resizing(old, new), images.dtype)
            images = ops.einsum(product, images, matrix)
    return images


def _resizing(old, new):
    """Returns the matrix `(old, new)` that resizes a row of pixels."""
    pixels = np.arange(old)[:, None] + 0.5
    centres = (np.arange(new) + 0.5) * old / new
    weights = np.maximum(0, 1 - np.abs(pixels - centres) / max(old / new, 1))
    return weights / weights.sum(axis=0)

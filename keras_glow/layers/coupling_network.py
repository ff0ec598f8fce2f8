"""The networks inside a coupling layer: their frame, and the paper's."""

import keras
from keras import ops

from keras_glow.backend import relu
from keras_glow.layers.actnorm import ActNorm
from keras_glow.layers.convolution import (
    add_context_kernel,
    convolve,
    kernel_shape,
    normalized,
    pointwise,
)
from keras_glow.losses import settled_policy


class Network(keras.layers.Layer):
    """A network that ends in a 3x3 convolution, which is zero at first.

    So a coupling starts as the identity, up to the constant that its scale
    function has at 0. Of a subclass `_hidden(h, context, masks)` returns what
    the last convolution takes, and `_last()` its kernel and bias.

    Args:
        width: int, hidden channels.
        channels: int, output channels.
        low_precision: `"bfloat16"` or `"float16"` to compute in while training;
            None always computes in the layer's own dtype. It is never used
            outside training: encoded images have to decode exactly.
        seed: int 0..2**32 - 1, or None for other initial kernels each time.
        border: bool, whether the 3x3 convolutions see where the image ends,
            see `keras_glow.layers.convolution.convolve`.
        context_channels: int, or None. With it the first hidden values get a
            1x1 convolution of a context added.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, any)`.
        context: float tensor `(batch, height, width, context_channels)`, or
            with a height and width of 1.
        training: bool.
        new_masks: bool, whether training draws new masks of dropout, instead of
            those of the last call. An inverse needs these.

    Returns:
        Float tensor `(batch, height, width, channels)`.
    """

    dtype_policy = settled_policy

    def __init__(
        self,
        width,
        channels,
        low_precision=None,
        seed=None,
        border=False,
        context_channels=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.context_channels = context_channels
        self.seed = seed
        self.width = width
        self.channels = channels
        self.low_precision = low_precision
        self.border = border

    def build(self, input_shape):
        # Subclasses have added their own weights: files number them.
        add_context_kernel(self, self.width)

    def call(self, x, context=None, training=None, new_masks=True):
        dtype = self.compute_dtype
        if training and self.low_precision:
            dtype = self.low_precision
        if context is not None:
            context = pointwise(
                ops.cast(context, dtype), ops.cast(self.context_kernel, dtype)
            )
        kernel, bias = self._last()
        h = self._hidden(
            ops.cast(x, dtype), context, self._masks(x, training, new_masks)
        )
        return self._convolve(h, ops.cast(kernel, dtype), bias)

    def _masks(self, x, training, new):
        """Returns what `_hidden` multiplies its values by, None for nothing."""
        return None

    def _convolve(self, x, kernel, bias=None):
        return convolve(x, kernel, bias, self.border)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "channels": self.channels,
            "low_precision": self.low_precision,
            "seed": self.seed,
            "border": self.border,
            "context_channels": self.context_channels,
        }


@keras.saving.register_keras_serializable(package="keras_glow")
class CouplingNetwork(Network):
    """3x3 convolution, 1x1 convolution, 3x3 convolution that starts at zero.

    The two hidden convolutions have an activation normalisation each (not a
    bijection here: it adds no log-determinant), folded into the kernel, and a
    ReLU. For arguments see `Network`.

    Reference:
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, section 3.3
    """

    def __init__(self, width, channels, **kwargs):
        super().__init__(width, channels, **kwargs)
        self.norm_1 = ActNorm(name="norm_1", dtype=self.dtype)
        self.norm_2 = ActNorm(name="norm_2", dtype=self.dtype)

    def build(self, input_shape):
        w, c = self.width, self.channels
        he_normal = keras.initializers.HeNormal(self.seed)
        self.kernel_1 = self.add_weight(
            kernel_shape(input_shape[-1], w, self.border),
            he_normal,
            name="kernel_1",
        )
        self.kernel_2 = self.add_weight((w, w), he_normal, name="kernel_2")
        self.kernel_3 = self.add_weight(
            kernel_shape(w, c, self.border), "zeros", name="kernel_3"
        )
        self.bias_3 = self.add_weight((c,), "zeros", name="bias_3")
        hidden_shape = (*input_shape[:-1], w)
        self.norm_1.build(hidden_shape)
        self.norm_2.build(hidden_shape)
        super().build(input_shape)

    def _hidden(self, h, context, masks):
        h = normalized(self._convolve, h, self.kernel_1, self.norm_1)
        h = relu(h if context is None else h + context)
        return relu(normalized(pointwise, h, self.kernel_2, self.norm_2))

    def _last(self):
        return self.kernel_3, self.bias_3

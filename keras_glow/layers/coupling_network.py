"""The small convolutional network inside a coupling layer."""

import operator

import keras
from keras import ops

from keras_glow.backend import relu
from keras_glow.layers.actnorm import ActNorm
from keras_glow.layers.bijection import height_and_width
from keras_glow.layers.convolution import convolve, kernel_shape


@keras.saving.register_keras_serializable(package="keras_glow")
class CouplingNetwork(keras.layers.Layer):
    """3x3 convolution, 1x1 convolution, 3x3 convolution that starts at zero.

    The two hidden convolutions have an activation normalisation each (not a
    bijection here: it adds no log-determinant), folded into the kernel, and a
    ReLU. The last one is zero at first, so a coupling starts as the identity,
    up to the constant that its scale function has at 0.

    Args:
        width: int, hidden channels.
        channels: int, output channels.
        low_precision: `"bfloat16"` or `"float16"` to compute in while training;
            None always computes in the layer's own dtype. It is never used
            outside training: encoded images have to decode exactly.
        seed: int 0..2**32 - 1, or None for other initial kernels each time.
        border: bool, whether the 3x3 convolutions see where the image ends,
            see `keras_glow.layers.convolution.convolve`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, any)`.
        training: bool.

    Returns:
        Float tensor `(batch, height, width, channels)`.

    Reference:
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, section 3.3
    """

    def __init__(
        self,
        width,
        channels,
        low_precision=None,
        seed=None,
        border=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.seed = seed
        self.width = width
        self.channels = channels
        self.low_precision = low_precision
        self.border = border
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

    def call(self, x, training=None):
        dtype = self.compute_dtype
        if training and self.low_precision:
            dtype = self.low_precision
        h = ops.cast(x, dtype)
        h = _hidden(h, self._convolve, self.kernel_1, self.norm_1)
        # A 1x1 convolution is a matrix product, which is faster on CPUs. It is
        # written with `@`: `ops.matmul` rounds float64 to float32 on Torch.
        pixels = ops.reshape(h, (-1, self.width))
        pixels = _hidden(pixels, operator.matmul, self.kernel_2, self.norm_2)
        h = ops.reshape(pixels, (-1, *height_and_width(h), self.width))
        h = self._convolve(h, ops.cast(self.kernel_3, dtype))
        return ops.add(ops.cast(h, self.compute_dtype), self.bias_3)

    def _convolve(self, x, kernel):
        return convolve(x, kernel, self.border)

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "channels": self.channels,
            "low_precision": self.low_precision,
            "seed": self.seed,
            "border": self.border,
        }


def _hidden(h, convolve, kernel, norm):
    """Returns relu(norm(convolve(h, kernel))), with the norm in the kernel."""
    if norm.adapting:
        norm.set_from(convolve(h, ops.cast(kernel, h.dtype)))
    scale = ops.exp(norm.log_scale)
    h = convolve(h, ops.cast(kernel * scale, h.dtype))
    # This is `ops.add`, not `+`: on TensorFlow its gradient for a bias does not
    # need h, so half of all activations need not be kept.
    return relu(ops.add(h, ops.cast(norm.bias * scale, h.dtype)))

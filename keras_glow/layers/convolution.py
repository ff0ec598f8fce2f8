"""The convolutions of the networks inside the flow."""

from keras import ops

from keras_glow.backend import convolution, product
from keras_glow.layers.bijection import height_and_width

AROUND = ((0, 0), (1, 1), (1, 1), (0, 0))  # one pixel on each side


def kernel_shape(channels, outputs, border):
    """Returns the shape of the kernel that `convolve` takes."""
    return (3, 3, channels + border, outputs)


def add_context_kernel(layer, outputs):
    """Adds to a layer the kernel of a 1x1 convolution of its context, if any.

    It is zero at first, so that a context changes nothing.
    """
    if layer.context_channels:
        layer.context_kernel = layer.add_weight(
            (layer.context_channels, outputs), "zeros", name="context_kernel"
        )


def convolve(x, kernel, bias=None, border=False):
    """Applies a 3x3 convolution that keeps height and width, by zero padding.

    Args:
        x: float tensor `(batch, height, width, channels)`.
        kernel: float tensor `(3, 3, channels, outputs)`; with `border` it
            reads one more channel, the last.
        bias: float tensor `(outputs,)`, or None; added in its own dtype.
        border: bool, whether there is such a channel, which is 1 around x and 0
            inside it. The result then depends on where the image ends, as in
            https://github.com/openai/glow. Padding x with ones is the special
            case in which the kernel of that channel is the sum of the others.

    Returns:
        Float tensor `(batch, height, width, outputs)`.
    """
    if not border:
        return convolution(x, kernel, bias, "same")
    outside = ops.pad(ops.zeros_like(x[..., :1]), AROUND, constant_values=1)
    x = ops.concatenate([ops.pad(x, AROUND), outside], axis=-1)
    return convolution(x, kernel, bias, "valid")


def pointwise(x, kernel, bias=None):
    """Applies a 1x1 convolution as a matrix product, which CPUs do faster.

    Args:
        x: float tensor `(batch, height, width, channels)`.
        kernel: float tensor `(channels, outputs)`.
        bias: see `convolve`.

    Returns:
        Float tensor `(batch, height, width, outputs)`.
    """
    pixels = product(ops.reshape(x, (-1, x.shape[-1])), kernel, bias)
    shape = (-1, *height_and_width(x), kernel.shape[-1])
    return ops.reshape(pixels, shape)


def biased(convolve, x, kernel, bias):
    """Applies a convolution and adds a bias, both cast to the dtype of x."""
    return convolve(x, ops.cast(kernel, x.dtype), ops.cast(bias, x.dtype))


def normalized(convolve, x, kernel, norm):
    """Applies a convolution, then an `ActNorm` that is folded into the kernel.

    Args:
        convolve: function of x, a kernel and a bias or none.
        x: float tensor `(batch, height, width, channels)`.
        kernel: float tensor, cast to the dtype of x.
        norm: a built `ActNorm`, which sets itself from the data if it is
            adapting.

    Returns:
        Float tensor `(batch, height, width, outputs)`.
    """
    if norm.adapting:
        norm.set_from(convolve(x, ops.cast(kernel, x.dtype)))
    scale = ops.exp(norm.log_scale)
    return biased(convolve, x, kernel * scale, norm.bias * scale)

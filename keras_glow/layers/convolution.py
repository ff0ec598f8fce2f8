"""The convolutions of the networks inside the flow."""

from keras import ops

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


def convolve(x, kernel, border=False):
    """Applies a 3x3 convolution that keeps height and width, by zero padding.

    Args:
        x: float tensor `(batch, height, width, channels)`.
        kernel: float tensor `(3, 3, channels, outputs)`; with `border` it
            reads one more channel, the last.
        border: bool, whether there is such a channel, which is 1 around x and 0
            inside it. The result then depends on where the image ends, as in
            https://github.com/openai/glow. Padding x with ones is the special
            case in which the kernel of that channel is the sum of the others.

    Returns:
        Float tensor `(batch, height, width, outputs)`.
    """
    if not border:
        return ops.conv(x, kernel, padding="same", data_format="channels_last")
    outside = ops.pad(ops.zeros_like(x[..., :1]), AROUND, constant_values=1)
    x = ops.concatenate([ops.pad(x, AROUND), outside], axis=-1)
    return ops.conv(x, kernel, padding="valid", data_format="channels_last")


def pointwise(x, kernel):
    """Applies a 1x1 convolution as a matrix product, which CPUs do faster.

    It is written with `@`: `ops.matmul` rounds float64 to float32 on Torch.

    Args:
        x: float tensor `(batch, height, width, channels)`.
        kernel: float tensor `(channels, outputs)`.

    Returns:
        Float tensor `(batch, height, width, outputs)`.
    """
    pixels = ops.reshape(x, (-1, x.shape[-1])) @ kernel
    shape = (-1, *height_and_width(x), kernel.shape[-1])
    return ops.reshape(pixels, shape)


def biased(convolution, x, kernel, bias):
    """Applies a convolution and adds a bias, both cast to the dtype of x."""
    # This is `ops.add`, not `+`: on TensorFlow its gradient for a bias does not
    # need x, so half of all activations need not be kept.
    return ops.add(
        convolution(x, ops.cast(kernel, x.dtype)), ops.cast(bias, x.dtype)
    )


def normalized(convolution, x, kernel, norm):
    """Applies a convolution, then an `ActNorm` that is folded into the kernel.

    Args:
        convolution: function of x and a kernel.
        x: float tensor `(batch, height, width, channels)`.
        kernel: float tensor, cast to the dtype of x.
        norm: a built `ActNorm`, which sets itself from the data if it is
            adapting.

    Returns:
        Float tensor `(batch, height, width, outputs)`.
    """
    if norm.adapting:
        norm.set_from(convolution(x, ops.cast(kernel, x.dtype)))
    scale = ops.exp(norm.log_scale)
    return biased(convolution, x, kernel * scale, norm.bias * scale)

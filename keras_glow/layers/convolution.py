"""The 3x3 convolution of the networks inside the flow."""

from keras import ops

AROUND = ((0, 0), (1, 1), (1, 1), (0, 0))  # one pixel on each side


def kernel_shape(channels, outputs, border):
    """Returns the shape of the kernel that `convolve` takes."""
    return (3, 3, channels + border, outputs)


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

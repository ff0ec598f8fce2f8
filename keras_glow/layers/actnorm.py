"""Activation normalisation: a per-channel affine map, initialised from data."""

import contextlib
import typing

import keras
import numpy.typing as npt
from keras import ops

from keras_glow.checks import check_positive, plain_arrays
from keras_glow.layers.bijection import IMAGE, Bijection, pixel_count

# A channel that hardly varies must not be blown up: |log_scale| is kept below
# this when it is set from data (exp(10) is about 22,000).
MAX_INITIAL_LOG_SCALE = 10.0


def moments(x):
    """Returns mean and standard deviation over all axes but the last."""
    # Passes over centred values: a large mean costs no precision, and what its
    # own sum was off by is found and taken away.
    axes = tuple(range(x.ndim - 1))
    mean = ops.mean(x, axis=axes)
    mean = mean + ops.mean(x - mean, axis=axes)
    return mean, ops.sqrt(ops.mean(ops.square(x - mean), axis=axes))


@keras.saving.register_keras_serializable(package="keras_glow")
class ActNorm(Bijection):
    """Per-channel bias and scale, set once from data, then trained.

    - Forward: `z = exp(log_scale) * (x + bias)`
    - Inverse: `x = exp(-log_scale) * z - bias`
    - Log-determinant: `height * width * sum(log_scale)`, equal for all examples

    `adapt(x)` sets both weights so that `x` leaves with mean 0 and variance 1
    in every channel. `Glow.fit` does so before its first step; until then the
    layer is the identity. The weight `initialized` records that it was done, in
    files too, so a reloaded model is never set again.

    Args:
        epsilon: float > 0, added to the standard deviation in `adapt()`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Example:
    >>> x = np.random.default_rng(0).normal(5.0, 2.0, size=(64, 8, 8, 3))
    >>> layer = ActNorm()
    >>> layer.adapt(x)
    >>> z = ops.convert_to_numpy(layer(x))
    >>> bool(abs(z.mean()) < 1e-5 and abs(z.std() - 1) < 1e-5)
    True
    >>> np.allclose(layer.inverse(z), x, atol=1e-4)
    True

    Reference:
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, section 3.1
    """

    input_ranks = (IMAGE,)
    trained = True  # after it was set

    def __init__(self, epsilon: float = 1e-6, **kwargs) -> None:
        super().__init__(**kwargs)
        self.epsilon = check_positive("epsilon", epsilon)
        self.adapting = False  # if True, each call sets the weights

    def build(self, input_shape):
        channels = input_shape[-1:]
        self.built_channels = input_shape[-1]
        self.log_scale, self.bias = (
            self.add_weight(
                channels, "zeros", trainable=self.trained, name=name
            )
            for name in ("log_scale", "bias")
        )
        self.initialized = self.add_weight(
            (), "zeros", dtype="int32", trainable=False, name="initialized"
        )

    def adapt(self, x: npt.ArrayLike) -> None:
        """Sets the weights so that `x` leaves with mean 0 and variance 1.

        Call it outside of `fit`: on JAX, Keras discards values that are
        assigned to a trainable weight there.
        """
        x = ops.convert_to_tensor(plain_arrays(x), dtype=self.compute_dtype)
        if not self.built:
            self.build(x.shape)
        self.set_from(x)

    def set_from(self, x: typing.Any) -> None:
        """Does the same for a float tensor `(..., channels)`, unchecked."""
        mean, deviation = moments(x)
        log_scale = -ops.log(deviation + self.epsilon)
        limit = MAX_INITIAL_LOG_SCALE
        self.set(mean, ops.clip(log_scale, -limit, limit))

    def set(self, mean: typing.Any, log_scale: typing.Any) -> None:
        """Sets the weights, both `(channels,)`."""
        self.bias.assign(-mean)
        self.log_scale.assign(log_scale)
        self.initialized.assign(1)

    def is_set(self) -> bool:
        """Returns whether data or training has set the weights.

        A training loop of one's own need not call `adapt`: weights that have
        left their start tell that it was there.
        """
        return any(
            ops.convert_to_numpy(weight).any()
            for weight in (self.initialized, self.log_scale, self.bias)
        )

    def _forward(self, x):
        if self.adapting:
            self.adapt(x)
        # On TensorFlow the gradient of `ops.add` of a bias does not need x.
        z = ops.exp(self.log_scale) * ops.add(x, self.bias)
        log_det = pixel_count(x) * ops.sum(self.log_scale)
        return z, self.zero_log_det(x) + log_det

    def _inverse(self, z):
        return ops.exp(-self.log_scale) * z - self.bias

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@contextlib.contextmanager
def adapting(layers):
    """Makes layers set their weights from their inputs in this context."""
    for layer in layers:
        layer.adapting = True
    try:
        yield
    finally:
        for layer in layers:
            layer.adapting = False

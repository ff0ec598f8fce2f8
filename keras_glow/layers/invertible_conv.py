"""The invertible 1x1 convolution: a learned mix of the channels."""

import functools
import typing

import keras
import numpy as np
from keras import ops

from keras_glow.backend import constant
from keras_glow.backend.process import flow_precision
from keras_glow.checks import check_boolean, check_seed
from keras_glow.layers.bijection import (
    IMAGE,
    Bijection,
    pixel_count,
    weights_generator,
)
from keras_glow.layers.convolution import pointwise

# Variance that whitening adds to that of the data, so that nothing is scaled by
# more than the root of its inverse, 100.
WHITENING_VARIANCE = 1e-4


def plu_decomposition(matrix):
    """Returns P, L, U with `matrix = P @ L @ U`.

    P is a permutation, L unit lower triangular and U upper triangular.

    It is Gaussian elimination with partial pivoting, on the host, because the
    backends disagree on how they report the pivots.
    """
    upper = np.array(matrix, dtype="float64")
    size = len(upper)
    lower, order = np.zeros_like(upper), np.arange(size)
    for k in range(size):
        pivot = k + np.argmax(np.abs(upper[k:, k]))
        for array in (upper, lower, order):
            array[[k, pivot]] = array[[pivot, k]]
        lower[k:, k] = upper[k:, k] / upper[k, k]
        upper[k + 1 :] -= np.outer(lower[k + 1 :, k], upper[k])
    permutation = np.eye(size)[order].T
    return permutation, lower, np.triu(upper)


def random_rotation(size, seed=None):
    """Returns a random rotation (orthogonal, determinant 1), float64."""
    gaussian = weights_generator(seed).normal(size=(size, size))
    q, r = np.linalg.qr(gaussian)
    q = q * np.sign(np.diag(r))  # uniform over the orthogonal group
    q[0] *= np.linalg.slogdet(q).sign
    return q


@functools.cache
def _masks(channels):
    """Returns the diagonal, what is below it and what is above: 0 and 1."""
    below = np.tril(np.ones((channels, channels)), -1)
    return np.eye(channels), below, below.T


@keras.saving.register_keras_serializable(package="keras_glow")
class InvertibleConv1x1(Bijection):
    """Multiplies the channel vector of every pixel by a learned matrix W.

    - Forward: `z[b, i, j] = W @ x[b, i, j]`
    - Inverse: `x[b, i, j] = W^-1 @ z[b, i, j]`
    - Log-determinant: `height * width * log|det W|`, equal for all examples

    W starts as a random rotation (log-determinant 0).

    With `lu=True`, `W = P @ L @ (U + diag(sign * exp(log_s)))`: P (a
    permutation) and sign are fixed, L is unit lower and U strictly upper
    triangular. So `log|det W| = sum(log_s)` costs nothing, W can never become
    singular, and two triangular solves invert it. With `lu=False` W itself is
    the weight, and the log-determinant and inverse cost O(channels**3).

    Args:
        lu: bool, which of the two parametrisations.
        seed: int 0..2**32 - 1, or None for a different rotation each time,
            see `keras.utils.set_random_seed`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Reference:
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, section 3.2
    """

    input_ranks = (IMAGE,)

    def __init__(
        self, lu: bool = True, seed: int | None = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.lu = check_boolean("lu", lu)
        self.seed = check_seed(seed)
        self.adapting = False  # if True, each call whitens its inputs first

    def build(self, input_shape):
        channels = self.built_channels = input_shape[-1]
        rotation = random_rotation(channels, self.seed)
        if not self.lu:
            self.kernel = self._add_weight("kernel", rotation)
            return
        p, lower, upper = plu_decomposition(rotation)
        diagonal = np.diag(upper)
        self.p = self._add_weight("p", p, trainable=False)
        self.sign = self._add_weight("sign", np.sign(diagonal), trainable=False)
        self.log_s = self._add_weight("log_s", np.log(np.abs(diagonal)))
        self.lower = self._add_weight("lower", np.tril(lower, -1))
        self.upper = self._add_weight("upper", np.triu(upper, 1))

    def _add_weight(self, name, value, trainable=True):
        return self.add_weight(
            value.shape,
            lambda shape, dtype: ops.convert_to_tensor(value, dtype),
            trainable=trainable,
            name=name,
        )

    def matrix(self) -> typing.Any:
        """Returns W, shape `(channels, channels)`."""
        if not self.lu:
            return ops.convert_to_tensor(self.kernel)
        lower, upper = self._triangles()
        with flow_precision():  # It is called from outside `call` too.
            return ops.convert_to_tensor(self.p) @ (lower @ upper)

    def inverse_matrix(self) -> typing.Any:
        """Returns W^-1, shape `(channels, channels)`."""
        if not self.lu:
            return ops.inv(self.kernel)
        lower, upper = self._triangles()
        half = ops.solve_triangular(lower, ops.transpose(self.p), lower=True)
        return ops.solve_triangular(upper, half)

    def whiten(self, x: typing.Any) -> None:
        """Lets W first take the correlations out of the channels of x.

        `x`, a float tensor `(batch, height, width, channels)`, then leaves with
        uncorrelated channels of variance 1, if W is a rotation as at first.
        """
        x = ops.reshape(x, (-1, self.built_channels))
        x = x - ops.mean(x, axis=0)
        eye = ops.eye(self.built_channels, dtype=x.dtype)
        covariance = ops.transpose(x) @ x / ops.shape(x)[0]
        # Of all matrices that whiten, the triangular one leaves P and L alone.
        root = ops.cholesky(ops.flip(covariance + WHITENING_VARIANCE * eye))
        white = ops.flip(ops.solve_triangular(root, eye, lower=True))
        if not self.lu:
            self.kernel.assign(self.kernel @ white)
            return
        _, upper = self._triangles()
        self.upper.assign(upper @ white)
        self.log_s.assign(self.log_s + ops.log(ops.diagonal(white)))

    def _triangles(self):
        # The weights are masked at every call, because the optimiser also moves
        # the unused entries. The masks are constants, because `ops.tril` takes
        # a dozen operations on TensorFlow.
        lower = ops.convert_to_tensor(self.lower)
        identity, below, above = (
            constant(mask, lower) for mask in _masks(lower.shape[0])
        )
        diagonal = self.sign * ops.exp(self.log_s)
        return (
            lower * below + identity,
            self.upper * above + identity * diagonal,
        )

    def _forward(self, x):
        if self.adapting:
            self.whiten(x)
        if self.lu:
            log_det = ops.sum(self.log_s)
        else:
            # The triangle of a QR decomposition gives log|det W|. Unlike
            # `ops.slogdet`, it compiles under XLA on TensorFlow.
            _, r = ops.qr(self.kernel)
            log_det = ops.sum(ops.log(ops.abs(ops.diagonal(r))))
        log_det = self.zero_log_det(x) + pixel_count(x) * log_det
        # Pixels are the rows of `pointwise`, hence W^T.
        return pointwise(x, ops.transpose(self.matrix())), log_det

    def _inverse(self, z):
        return pointwise(z, ops.transpose(self.inverse_matrix()))

    def get_config(self):
        return {**super().get_config(), "lu": self.lu, "seed": self.seed}

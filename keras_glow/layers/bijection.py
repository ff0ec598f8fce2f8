"""The contract of every flow layer: call, inverse, log_det."""

import keras
from keras import ops

from keras_glow.backend.process import flow_precision, turn_off_tf32
from keras_glow.losses import negative_mean


def flow_dtype(dtype=None):
    """Returns the dtype of the flow under a dtype policy: never half precision.

    A log-determinant sums thousands of terms and the inverse has to undo every
    rounding, so only float32 and float64 will do, whatever the policy says.

    Args:
        dtype: a dtype name, a `keras.DTypePolicy`, or None for the global one.

    Returns:
        `"float32"` or `"float64"`.
    """
    variable_dtype = keras.dtype_policies.get(dtype).variable_dtype
    return "float64" if variable_dtype == "float64" else "float32"


class Bijection(keras.layers.Layer):
    """An invertible map `x -> z` that knows its log-determinant.

    Subclass it with two methods:

    - `_forward(x)` returns `(z, log_det)`, where `log_det` is
      `log|det dz/dx|` in nats, image side to latent side, one value per
      example: shape `(batch,)`, zeros if the map preserves volume.
    - `_inverse(z)` returns `x`.

    Everything else follows: `z = layer(x)`, `x = layer.inverse(z)` and
    `layer.log_det(x)`, eagerly, on symbolic Keras tensors, under `fit` and XLA.
    Both directions go through `__call__` of the same object, so models built
    from either share the weights. Variables are float32 (or float64) under any
    dtype policy, see `flow_dtype`.

    Args:
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: `x`, or `z` if `inverse`.
        log_det: optional tensor `(batch,)` or 0.0, the log-determinant gathered
            by the layers before. Given it, the layer returns
            `(z, log_det + its own)` and adds no loss; without it the layer
            adds the loss `-mean(its own)` and returns `z` alone. `Glow` carries
            the sum to one loss at the end: on JAX, Keras drops some of the
            losses that many layers of one graph add.
        inverse: bool, whether to map `z` back to `x`; adds no loss.
        perturbation: for `Chain` only. A zero tensor shaped like `x`; if given,
            `inputs` is `z`, and the call returns
            `_rebuild(z, perturbation)`.
        training: bool; only the networks inside a layer use it.

    Example:
    >>> class Double(Bijection):
    ...     def _forward(self, x):
    ...         batch, *shape = x.shape
    ...         return 2 * x, ops.full((batch,), np.prod(shape) * np.log(2.0))
    ...     def _inverse(self, z):
    ...         return z / 2
    >>> layer = Double()
    >>> z = layer(np.ones((1, 2, 2, 3)))
    >>> float(layer.losses[0])  # -12 log 2
    -8.3177...
    """

    def __init__(self, **kwargs):
        kwargs["dtype"] = flow_dtype(kwargs.get("dtype"))
        super().__init__(**kwargs)
        turn_off_tf32()

    def call(
        self,
        inputs,
        log_det=None,
        inverse=False,
        perturbation=None,
        training=None,
    ):
        # Keras hands `training` on to the layers called inside.
        with flow_precision():
            if perturbation is not None:
                return self._rebuild(inputs, perturbation)
            if inverse:
                return self._inverse(inputs)
            z, own_log_det = self._forward(inputs)
        if log_det is None:
            self.add_loss(negative_mean(own_log_det))
            return z
        return z, log_det + own_log_det

    def inverse(self, z):
        """Maps `z` back to `x` through this layer's own weights."""
        return self(z, inverse=True)

    def log_det(self, x):
        """Returns `log|det dz/dx|` in nats, shape `(batch,)`; adds no loss."""
        return self(x, log_det=0.0)[1]

    def parts(self):
        """Returns the bijections that make up this one, or itself alone."""
        return (self,)

    def zero_log_det(self, x):
        """Returns a log-determinant of 0 per example: shape `(batch,)`."""
        x = keras.tree.flatten(x)[0]
        return ops.zeros(ops.shape(x)[:1], self.compute_dtype)

    def _forward(self, x):
        raise NotImplementedError(
            f"{type(self).__name__} must define `_forward(x) -> (z, log_det)`."
        )

    def _inverse(self, z):
        raise NotImplementedError(
            f"{type(self).__name__} must define `_inverse(z) -> x`."
        )

    def _rebuild(self, z, perturbation):
        """Goes back to `x`, and forward from there: `((z, log_det), x)`.

        The backward pass takes its gradients from here when no activations were
        stored. `perturbation` is zero and has the shape of `x`: the gradient
        with respect to it is the gradient with respect to `x`. No gradient goes
        through the inverse.
        """
        x = ops.stop_gradient(self._inverse(z)) + perturbation
        return self._forward(x), x

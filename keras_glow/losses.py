"""How latents and log-determinants become a likelihood."""

import math

import keras
from keras import ops

from keras_glow.backend.keras_internals import KeepsLosses
from keras_glow.checks import refuse

LOG_2PI = math.log(2 * math.pi)


def flow_dtype(dtype=None):
    """Returns the dtype of the flow under a dtype policy: never half precision.

    A log-determinant sums thousands of terms and the inverse has to undo every
    rounding, so only float32 and float64 will do, whatever the policy says.

    Args:
        dtype: a dtype name, a `keras.DTypePolicy`, or None for the global one.

    Returns:
        `"float32"` or `"float64"`.

    Raises:
        ValueError: if `keras.config.floatx()` is of half precision: Keras
            would round images, losses and learning rates to it.
    """
    floatx = keras.config.floatx()
    if floatx not in ("float32", "float64"):
        hint = ". Networks follow keras.config.set_dtype_policy"
        refuse("keras.config.floatx()", "float32 or float64", floatx, hint)
    variable_dtype = keras.dtype_policies.get(dtype).variable_dtype
    return "float64" if variable_dtype == "float64" else "float32"


def _refuse_policy(layer, policy):
    own = layer.dtype_policy
    if keras.dtype_policies.get(policy) != own:
        refuse("dtype_policy", f"{own.name}, as it was created", policy)


# Keras would round what goes through a layer that was built for another dtype.
settled_policy = property(keras.Layer.dtype_policy.fget, _refuse_policy)


def standard_normal_log_prob(z):
    """Returns log N(z; 0, I) in nats: `(batch, ...)` to `(batch,)`."""
    axes = tuple(range(1, z.ndim))
    return -0.5 * ops.sum(ops.square(z) + LOG_2PI, axis=axes)


def count_of(values, counted=None):
    """Returns how many values of a batch `batch_mean` takes the mean of."""
    if counted is None:
        return ops.cast(ops.shape(values)[0], values.dtype)
    return ops.sum(ops.cast(counted, values.dtype))


def batch_mean(values, counted=None):
    """Returns the mean over the batch, `(batch,)` to `()`, in the same dtype.

    `ops.mean` would round float64 to float32 on JAX. The mean is 0 for an empty
    batch, which a replica may receive at the end of an epoch. `counted`, bool
    `(batch,)`, says which of the values are meant; None for all.
    """
    total = ops.sum(
        values if counted is None else ops.where(counted, values, 0)
    )
    return total / ops.maximum(count_of(values, counted), 1)


def negative_mean(log_det, counted=None):
    """Returns `-mean(log_det)` over the batch, in nats, for `add_loss`.

    Keras sums the elements of a loss, so the mean has to be taken first.
    """
    return -batch_mean(log_det, counted)


@keras.saving.register_keras_serializable(package="keras_glow")
class StandardNormalNLL(keras.losses.Loss):
    """Negative log-likelihood of latents under N(0, I), in nats per example.

    Together with the losses `-mean(log_det)` that an encoder adds, it is the
    mean negative log-likelihood of the continuous images. The targets are
    ignored: pass anything of the batch's length, or None to `Glow.fit`.

    Example:
    >>> loss = StandardNormalNLL()
    >>> float(loss(np.zeros((1, 2)), np.zeros((1, 2))))  # log(2 pi)
    1.8378...
    """

    def __init__(self, name="standard_normal_nll", **kwargs):
        # Keras would compute in its floatx, and could not add up the losses.
        kwargs["dtype"] = flow_dtype(kwargs.get("dtype"))
        super().__init__(name=name, **kwargs)

    def call(self, y_true, y_pred):
        return -standard_normal_log_prob(y_pred)


@keras.saving.register_keras_serializable(package="keras_glow")
class LogDetLoss(KeepsLosses, keras.layers.Layer):
    """Ends an encoder: passes z on and adds the loss `-mean(log_det)`.

    Call arguments:
        z: float tensor `(batch, D)`.
        log_det: float tensor `(batch,)`, in nats.
        counted: None, or see `batch_mean`; Keras hands it on to here from a
            call of the encoder.
    """

    dtype_policy = settled_policy

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._register_call_context_args("counted")

    def call(self, z, log_det, counted=None):
        self.add_loss(negative_mean(log_det, counted))
        return z


@keras.saving.register_keras_serializable(package="keras_glow")
class LogProb(keras.layers.Layer):
    """Returns the log-density of continuous images in nats: `(batch,)`.

    Call arguments:
        z: float tensor `(batch, D)`, standardised latents.
        log_det: float tensor `(batch,)`, in nats.
    """

    def call(self, z, log_det):
        return standard_normal_log_prob(z) + log_det

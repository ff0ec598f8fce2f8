"""The moving average of the weights that `use_ema=True` keeps."""

import contextlib

from keras import ops

from keras_glow.backend.keras_internals import averages as averages_of


@contextlib.contextmanager
def averaged_weights(model):
    """Puts the averages into the model in this context, then its own weights.

    `use_ema=True` of a Keras optimiser keeps a moving average of the weights
    and puts it into the model when `fit` ends; until then the model holds the
    raw weights. Values are copied both ways, so they come back exactly.
    A model that is trained without averages is left as it is.

    Args:
        model: a compiled keras.Model.
    """
    optimizer = getattr(model, "optimizer", None)
    if not getattr(optimizer, "use_ema", False):
        # A LossScaleOptimizer leaves averaging to the optimiser it wraps.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    averages = averages_of(optimizer)
    if not (getattr(optimizer, "use_ema", False) and averages):
        yield
        return
    variables = model.trainable_variables
    # These are copies, because on JAX a variable keeps the very array that it
    # is assigned, and a compiled step may free that array.
    raw = [ops.copy(variable) for variable in variables]
    for variable, average in zip(variables, averages, strict=True):
        variable.assign(ops.copy(average))
    try:
        yield
    finally:
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)

"""JAX: a model that survives what goes wrong inside Keras."""

import contextlib

import keras


@contextlib.contextmanager
def weights_kept(model):
    """In this context an error leaves a model its weights, on JAX too.

    There, Keras takes the values out of the variables while it trains,
    evaluates or predicts. An error in the first batch, or Ctrl-C, would leave
    the variables empty, and the model lost.

    Args:
        model: a keras.Model.
    """
    if keras.backend.backend() != "jax":
        yield
        return
    optimizer = getattr(model, "optimizer", None)
    variables = [
        *model.variables,
        *model.metrics_variables,
        *(optimizer.variables if optimizer else ()),
    ]
    before = [(variable, variable.value) for variable in variables]
    try:
        yield
    except BaseException:
        # What the last whole batch left, if there was one.
        model.jax_state_sync()
        for variable, value in before:
            if variable._value is None:
                variable.assign(value)
        raise

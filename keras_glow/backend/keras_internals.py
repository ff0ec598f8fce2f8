"""Every private name of Keras that this package uses.

Keras may change them in any release: `tests/backend/test_keras_internals.py`
looks for each. Two more uses are where a method of Keras is overridden:
`TrainableFlow.compute_loss` uses `_compile_loss`, and `GuardedOptimizer` is an
optimiser with its `_variables`, `_trainable_variables` and
`_model_variables_moving_average`.
"""

import contextlib

import keras

# The module in which Keras keeps its Torch variants of the optimisers.
TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"


def all_layers(layer):
    """Returns an iterator over a layer and all layers inside it."""
    return layer._flatten_layers()


def is_called_by_fit(kwargs):
    """Returns whether `evaluate` got its arguments from `fit`."""
    return bool(kwargs.get("_use_cached_eval_dataset"))


def iterations(optimizer):
    """Returns the variable that counts the steps of an optimiser.

    The public `iterations` is smaller if gradients are accumulated.
    """
    return optimizer._iterations


def averages(optimizer):
    """Returns the moving averages of an optimiser with `use_ema`, or None."""
    return getattr(optimizer, "_model_variables_moving_average", None)


def strategy(optimizer):
    """Returns the `tf.distribute` strategy of an optimiser, or None."""
    return getattr(optimizer, "_distribution_strategy", None)


def synchronize(model):
    """Writes the state of training back into the variables, on JAX."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


@contextlib.contextmanager
def restore_weights_on_error(model):
    """Restores the weights after an error in this context, on JAX.

    On JAX Keras takes the values out of the variables while it trains,
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
        # This restores the values after the last whole batch, if any.
        model.jax_state_sync()
        for variable, value in before:
            if variable._value is None:
                variable.assign(value)
        raise

"""Every private name of Keras that this package uses.

Keras may change them in any release: `tests/backend/test_keras_internals.py`
looks for each. Four more uses are where a class of Keras is extended:
`LogDetLoss`, which uses `_register_call_context_args`; `TrainableFlow.compile`,
`_compile_loss`; `TrainableFlow.fit`, `_initial_epoch`; and `GuardedOptimizer`,
which is an optimiser with its `_variables`, `_trainable_variables` and
`_model_variables_moving_average`. The errors of `checks` bear
`_keras_call_info_injected`.
"""

import contextlib

import keras
from keras.src.backend.common.stateless_scope import get_stateless_scope

# The module in which Keras keeps its Torch variants of the optimisers.
TORCH_OPTIMIZERS = "keras.src.backend.torch.optimizers"


def all_layers(layer):
    """Returns an iterator over a layer and all layers inside it."""
    return layer._flatten_layers()


def inner_layers(layer):
    """Returns an iterator over the layers right inside a layer."""
    return layer._flatten_layers(include_self=False, recursive=False)


class PassesTrainableOn:
    """A layer whose `trainable` always reaches the layers inside it.

    On TensorFlow, Keras ignores an attribute that is set to what it is: a layer
    inside would stay frozen at `model.trainable = True` if the model was not.
    """

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "trainable":
            for layer in all_layers(self):
                if layer is not self:
                    layer.trainable = value

    def _post_build(self):
        super()._post_build()
        if not self.trainable:  # nor are the layers that it has by now
            self.trainable = False


@contextlib.contextmanager
def only_calls_of(model, layers):
    """Hides the calls of layers that are not part of a functional model.

    Keras describes a layer by its last call, wherever that was. Without any it
    asks the layer for the shape of its output. `model` may be None.
    """
    own = model._nodes_by_depth.values() if model else ()
    own = {id(node) for nodes in own for node in nodes}
    hidden = [
        (layer._inbound_nodes, layer._inbound_nodes[:]) for layer in layers
    ]
    try:
        for nodes, before in hidden:
            nodes[:] = [node for node in before if id(node) in own]
        yield
    finally:
        for nodes, before in hidden:
            nodes[:] = before


def is_called_by_fit(kwargs):
    """Returns whether `evaluate` got its arguments from `fit`."""
    return bool(kwargs.get("_use_cached_eval_dataset"))


def may_clear_losses(layer):
    """Returns whether Keras may clear the losses that a layer has added.

    It does so before each call that is not part of another layer's. On JAX the
    calls in the graph of a model are part of none, so a layer that is called
    twice in it would lose the loss of its first call.
    """
    scope = get_stateless_scope()
    if scope is None or not scope.collect_losses:
        return True
    cleared = vars(scope).setdefault("cleared_layers", set())
    first = id(layer) not in cleared
    cleared.add(id(layer))
    return first


class KeepsLosses:
    """A layer that keeps the losses of its calls: see `may_clear_losses`."""

    def _clear_losses(self):
        if may_clear_losses(self):
            super()._clear_losses()


def iterations(optimizer):
    """Returns the variable that counts the steps of an optimiser.

    The public `iterations` is smaller if gradients are accumulated.
    """
    return optimizer._iterations


def averages(optimizer):
    """Returns the moving averages of an optimiser with `use_ema`, or None."""
    return getattr(optimizer, "_model_variables_moving_average", None)


def nested_optimizers(optimizer):
    """Yields an optimiser, that inside it and so on; none if it is None."""
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def optimized(optimizer):
    """Returns the weights that an optimiser was built for, None if for none."""
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer._trainable_variables if optimizer.built else None


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

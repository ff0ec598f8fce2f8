"""The moving average of the weights that `use_ema=True` keeps.

In `fit` the model holds its own weights while it is trained, and the averages
from the end of an epoch's steps until the next epoch begins: validation and
every callback at the end of an epoch see the same weights. The optimiser keeps
the others meanwhile, in files too.
"""

import contextlib

import keras

from keras_glow.backend.keras_internals import nested_optimizers
from keras_glow.checks import refuse


def _guard(model):
    """Returns the `GuardedOptimizer` of a model, or None."""
    optimizers = nested_optimizers(getattr(model, "optimizer", None))
    return next((o for o in optimizers if hasattr(o, "use_averages")), None)


@contextlib.contextmanager
def averaged_weights(model):
    """Puts the averages into the model in this context, then its own weights.

    Values are copied both ways, so they come back exactly. A model that is
    trained without averages, or holds them already, is left as it is.
    """
    guard = _guard(model)
    if guard is None or guard.averaged:
        yield
        return
    guard.use_averages(True)
    try:
        yield
    finally:
        guard.use_averages(False)


def put_averages(model, wanted):
    """Puts averages into the model, or takes them out, if it keeps any."""
    guard = _guard(model)
    if guard is not None:
        guard.use_averages(wanted)


class HoldAverages(keras.callbacks.Callback):
    """Has validation, and all callbacks behind it, see the averages."""

    def on_epoch_begin(self, epoch, logs=None):
        put_averages(self.model, False)

    def on_test_begin(self, logs=None):
        put_averages(self.model, True)

    def on_epoch_end(self, epoch, logs=None):
        put_averages(self.model, True)


def without_swaps(model, callbacks):
    """Returns callbacks without `SwapEMAWeights`, and whether it was there.

    `HoldAverages` does its work. Without averages it stays, since Keras says
    then that it needs `use_ema=True`.
    """
    callbacks = keras.tree.flatten([] if callbacks is None else callbacks)
    kinds = keras.callbacks.Callback, keras.callbacks.CallbackList
    for callback in callbacks:
        if not isinstance(callback, kinds):
            refuse("callbacks", "a list of keras.callbacks.Callback", callback)
    guard = _guard(model)
    if guard is None or not guard.keeps_averages:
        return callbacks, False
    swap = keras.callbacks.SwapEMAWeights
    others = [c for c in callbacks if not isinstance(c, swap)]
    return others, len(others) < len(callbacks)

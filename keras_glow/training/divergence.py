"""Divergence of training: how it is logged, when training stops, and why.

`GuardedOptimizer` leaves out single steps that are not finite. This module
counts them in the logs, and stops training after several in a row, naming the
layer where the trouble begins.
"""

import keras
import numpy as np
from keras import ops

from keras_glow.backend.keras_internals import synchronize
from keras_glow.layers.programs import shared_programs
from keras_glow.layers.sequence import named_parts, walk

PATIENCE = 10  # steps left out in a row


class TrainingDiverged(FloatingPointError):
    """Ten steps in a row had a loss or a gradient that was not finite.

    Names the epoch and the step, both from 1, and the first layer whose output
    is not finite, or says why there is none to name. The model keeps the
    weights of the last step that was taken.
    """


class NanIfEmptyMean(keras.metrics.Mean):
    """A mean that is NaN, not 0, if nothing was counted."""

    def result(self):
        mean = super().result()
        return ops.where(self.count > 0, mean, float("nan"))


def add_skipped_to_logs(model, result):
    """Adds the counters of the optimiser to the result of a `train_step`.

    The result is logs or, on JAX, a tuple of logs and the state of training.
    The logs get `skipped_steps`, the number of steps left out so far, and
    `skipped_in_a_row`, which only `StopIfDiverged` reads, if steps are guarded.
    """
    optimizer = model.optimizer
    if not hasattr(optimizer, "replicas"):
        return result
    logs, on_jax = result, keras.backend.backend() == "jax"
    counters = [optimizer.skipped, optimizer.skipped_in_a_row]
    if on_jax:
        logs, state = result
        indices = {id(v): i for i, v in enumerate(optimizer.variables)}
        counters = [state[2][indices[id(counter)]] for counter in counters]
    # They become floats, like all other logs. If they were integers, XLA on JAX
    # would give them the memory of flags of the model, and copy those flags in
    # every layer instead.
    skipped, in_a_row = (ops.cast(c, "float32") for c in counters)
    logs = {**logs, "skipped_steps": skipped, "skipped_in_a_row": in_a_row}
    return (logs, state) if on_jax else logs


class StopIfDiverged(keras.callbacks.Callback):
    """Ends `fit` by `TrainingDiverged` after ten steps in a row were left out.

    It asks `source`, which `fit` trains on, for the images that diverged.
    """

    # Keras may call `on_train_batch_end` from threads, in any order, so that
    # nothing waits for the device there. Errors are raised in other methods.
    async_safe = True

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.epoch = 0
        self.step = None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        self._raise_if_diverged()

    def on_train_batch_end(self, batch, logs=None):
        late = logs.pop("skipped_in_a_row", 0) - PATIENCE
        if late >= 0 and self.step is None:
            # Callbacks may run out of order: this thread may report a later
            # step.
            self.step = max(batch - int(late), 0)
        if not logs.get("skipped_steps", 0):
            logs.pop("skipped_steps", None)  # not in the progress bar

    def on_epoch_end(self, epoch, logs=None):
        self._raise_if_diverged()
        logs.pop("skipped_in_a_row", None)
        if "skipped_steps" in logs:
            logs["skipped_steps"] = int(logs["skipped_steps"])

    def _raise_if_diverged(self):
        if self.step is None:
            return
        synchronize(self.model)
        raise TrainingDiverged(
            f"{PATIENCE} steps in a row had a loss or a gradient that is not "
            f"finite, up to epoch {self.epoch + 1}, step {self.step + 1}. "
            f"{self._reason()}"
        )

    def _reason(self):
        """Says where the trouble begins, if there are images to look at."""
        try:
            arrays, of_step = self.source.images_of_step(self.step)
            if arrays is None:  # `fit` consumes the same generator
                return "Its images are gone: no layer was looked at"
            with shared_programs(self.model):
                layer = first_nonfinite_layer(self.model, *arrays)
        except Exception as error:
            # A user's dataset may raise anything: its images may be the cause.
            return f"No layer could be looked at: {error}"
        if layer:
            return f"The first layer whose output is not finite: {layer}"
        if of_step:
            return "The outputs of all layers are finite: the gradients are not"
        return "Of the first images of the dataset all outputs are finite"


def first_nonfinite_layer(model, images, *conditions):
    """Runs a model layer by layer, eagerly, as in training.

    Returns the name of the first layer, in the order of encoding, such as
    `step_1_2/coupling`, whose output or log-determinant is not finite for these
    images, and their conditions, or else zeros; None if there is none.
    """
    parts = named_parts(model.bijections)
    x = model.dequantize(images, seed="center")
    given = model.given(conditions or model.conditions.zeros(len(images)))
    steps = walk(parts.values(), x, given, training=True)
    for name, (_, _, z, log_det) in zip(parts, steps, strict=True):
        outputs = map(ops.convert_to_numpy, keras.tree.flatten([z, log_det]))
        if not all(np.isfinite(output).all() for output in outputs):
            return name
    return None

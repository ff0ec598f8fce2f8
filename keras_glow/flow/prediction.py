"""Runs a flow in batches."""

import concurrent.futures

import keras
import numpy as np
from keras import ops

from keras_glow.backend import compile_function, expected_retracing, has_gpu
from keras_glow.backend.devices import count_devices


def predict(model, inputs, conditions, batch_size):
    """Runs a functional model in batches: the one way to run a flow.

    It uses few sizes of batches, since each is compiled once: the last batch is
    filled up to `batch_size`, a lone batch to a power of 2, and every batch to
    a size that the devices can share evenly.

    The model is a `FlowModel` of one output; `inputs` are an array
    `(count, ...)` or `Rows`, `conditions` a tuple of arrays `(count, ...)`, see
    `keras_glow.checks.Conditions`. Returns `(count, ...)`.
    """
    count = len(inputs)
    if not count:
        return np.zeros((0, *model.output_shape[1:]), model.dtype)
    size = min(batch_size, 1 << (count - 1).bit_length())
    devices = count_devices(model)
    size += -size % devices
    batches = whole_batches(count, size)
    if devices > 1:
        rows = _rows(inputs, conditions, np.concatenate(batches))
        return model.predict(rows, batch_size=size, verbose=0)[:count]
    batches = (_rows(inputs, conditions, rows) for rows in batches)
    return np.concatenate(_predict_batches(model, batches))[:count]


def whole_batches(count, size):
    """Returns row numbers by batch; the last row fills the last batch up."""
    rows = np.minimum(np.arange(-(-count // size) * size), count - 1)
    return np.split(rows, len(rows) // size)


class Rows:
    """Rows of an array that are made when a batch needs them.

    A GPU computes one batch while the processor makes the next.

    Args:
        count: int, how many rows there are.
        make: function of an array of row numbers that returns these rows.
    """

    def __init__(self, count, make):
        self.count = count
        self.make = make

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        return self.make(rows)


def _rows(inputs, conditions, rows):
    if not conditions:
        return inputs[rows]
    # Keras takes no tensors and arrays together.
    return [ops.convert_to_tensor(a[rows]) for a in (inputs, *conditions)]


def with_conditions(inputs, conditions):
    """Returns the inputs of a model, which are one unless there are any."""
    return [inputs, *conditions] if conditions else inputs


def _predict_batches(model, batches):
    """Returns the outputs for each batch; all are of one shape.

    `predict` would set up a pipeline, which costs more than it gains for
    arrays, and for a few images more than the model. On a CPU TensorFlow gets
    two batches at once: one alone leaves the second core idle for a third of
    the time, since most of its operations are small.
    """
    if keras.backend.backend() == "jax":
        return _predict_on_jax(model, batches)
    with expected_retracing():
        if keras.backend.backend() != "tensorflow" or has_gpu():
            return [model.predict_on_batch(batch) for batch in batches]
        batches = iter(batches)
        outputs = [model.predict_on_batch(next(batches))]  # it is traced here
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            outputs += pool.map(model.predict_on_batch, batches)
        return outputs


def _predict_on_jax(model, batches):
    """Does without Keras, which would look for all weights each time.

    While one batch is computed, the result of the previous one is fetched.
    """
    if not hasattr(model, "_predict_stateless"):
        model._predict_stateless = compile_function(
            lambda *state_and_inputs: model.stateless_call(
                *state_and_inputs, training=False
            )[0]
        )
    kinds = model.trainable_variables, model.non_trainable_variables
    state = [[variable.value for variable in kind] for kind in kinds]
    outputs, before = [], None
    for batch in batches:
        output = model._predict_stateless(*state, batch)
        if before is not None:
            outputs.append(np.asarray(before))
        before = output
    return [*outputs, np.asarray(before)]

"""How a model is compiled and run: XLA, or two batches at once."""

import concurrent.futures

import keras
import numpy as np

from keras_glow.backend.gradients import compiled
from keras_glow.layers.chain import Chain


def resolve_jit_compile(jit_compile, model):
    """What `"auto"` means for a flow; True and False stay what they are.

    Keras would choose XLA for TensorFlow. On CPUs a step of a Glow takes about
    1.5 times as long under it, so there it is left out.
    """
    if jit_compile != "auto":
        return jit_compile
    if keras.backend.backend() == "tensorflow":
        return _has_gpu()
    return model._resolve_auto_jit_compile()


def prepare_chains(model, jit_compile):
    """Has the chains of a model share their traces, unless XLA compiles it.

    XLA takes many times as long for functions that are called as for their
    operations one by one.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, Chain):
            layer.share_traces = not jit_compile


def predict_batches(model, batches):
    """What a model makes of each batch: a list of arrays.

    `predict` would set up a pipeline, which costs more than it gains for
    arrays, and for a few images more than the model. On a CPU TensorFlow gets
    two batches at once: one alone leaves the second core idle for a third of
    the time, since most of its operations are small.

    Args:
        model: a functional `keras.Model`.
        batches: iterable of inputs, all of one shape.
    """
    if keras.backend.backend() == "jax":
        return _predict_on_jax(model, batches)
    if keras.backend.backend() != "tensorflow" or _has_gpu():
        return [model.predict_on_batch(batch) for batch in batches]
    batches = iter(batches)
    outputs = [model.predict_on_batch(next(batches))]  # it is traced here
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        outputs += pool.map(model.predict_on_batch, batches)
    return outputs


def _predict_on_jax(model, batches):
    """The same on JAX, where Keras would look for all weights in each batch.

    While one batch is computed, the one before it comes back.
    """
    if not hasattr(model, "_predict_stateless"):
        model._predict_stateless = compiled(
            lambda *state_and_inputs: model.stateless_call(
                *state_and_inputs, training=False
            )[0]
        )
    state = [
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
        )
    ]
    outputs, before = [], None
    for batch in batches:
        output = model._predict_stateless(*state, batch)
        if before is not None:
            outputs.append(np.asarray(before))
        before = output
    return [*outputs, np.asarray(before)]


def _has_gpu():
    return bool(keras.distribution.list_devices("gpu"))

"""Whether a model is compiled by XLA."""

import keras

from keras_glow.layers.chain import Chain


def resolve_jit_compile(jit_compile, model):
    """What `"auto"` means for a flow; True and False stay what they are.

    Keras would choose XLA for TensorFlow. On CPUs a step of a Glow takes about
    1.5 times as long under it, so there it is left out.
    """
    if jit_compile != "auto":
        return jit_compile
    if keras.backend.backend() == "tensorflow":
        return bool(keras.distribution.list_devices("gpu"))
    return model._resolve_auto_jit_compile()


def prepare_chains(model, jit_compile):
    """Has the chains of a model share their traces, unless XLA compiles it.

    XLA takes many times as long for functions that are called as for their
    operations one by one.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, Chain):
            layer.share_traces = not jit_compile

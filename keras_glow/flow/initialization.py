"""Sets layers from data, and checks inverses, once before training."""

import keras

from keras_glow.backend import compile_function
from keras_glow.backend.keras_internals import all_layers
from keras_glow.layers.actnorm import ActNorm, adapting
from keras_glow.layers.chain import checking_inverses
from keras_glow.layers.flow_step import FlowStep
from keras_glow.layers.programs import shared_programs

INITIALIZATION_IMAGES = 256  # as in openai/glow
CHECKED_IMAGES = 4


def _uninitialized(model):
    return [
        layer
        for layer in all_layers(model)
        if isinstance(layer, ActNorm) and not layer.is_set()
    ]


def _to_whiten(model):
    return [
        layer.permutation
        for layer in all_layers(model)
        if isinstance(layer, FlowStep)
        and layer.whiten
        and not layer.actnorm.is_set()
    ]


def is_initialized(model):
    """Returns whether every ActNorm of a model, at any depth, is set."""
    return not _uninitialized(model)


def initialize(model, inputs):
    """Sets every ActNorm of a model that was never set, and checks inverses.

    It takes one pass: each layer is set from the outputs of the layers before
    it, which are set already. ActNorm inside coupling networks is included;
    layers that training or a file has set before are left alone. Steps of flow
    with `whiten` have their 1x1 convolutions set too.

    It has to be a pass of its own: on JAX, Keras discards values that are
    assigned to a trainable weight inside `fit`.

    The model is one from images to latents; of its inputs,
    `INITIALIZATION_IMAGES` are plenty. Raises what `check_inverses` does.
    """
    layers = _uninitialized(model)
    if layers:
        with adapting([*layers, *_to_whiten(model)]):
            if keras.backend.backend() == "jax":
                _run_compiled(model, inputs)
            else:
                model(inputs)
    check_inverses(model, inputs)


def _run_compiled(model, inputs):
    """Calls a model as one program: eagerly, JAX compiles each operation."""

    def run(values, inputs):
        with keras.StatelessScope(zip(variables, values, strict=True)) as scope:
            model(inputs)
        return [scope.get_current_value(variable) for variable in variables]

    variables = model.variables
    values = [variable.value for variable in variables]
    values = compile_function(run)(values, inputs)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def check_inverses(model, inputs):
    """Refuses inverses too inaccurate for `memory="reversible"`.

    Raises:
        ValueError: naming the layer, see `Chain.check_inverses`.
    """
    with checking_inverses(model) as any_chain:
        if any_chain:
            few = keras.tree.map_structure(lambda t: t[:CHECKED_IMAGES], inputs)
            with shared_programs(model):
                model(few, training=True)

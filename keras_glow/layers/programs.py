"""Eager calls of layers as programs, one for each kind of layer."""

import contextlib
import contextvars
import weakref

import keras

from keras_glow.backend import compile_function, compiles_operations
from keras_glow.backend.keras_internals import all_layers

_programs = weakref.WeakKeyDictionary()  # of each owner, see `shared_programs`
_current = contextvars.ContextVar("programs", default=None)


# What decides how the weights start, and nothing after that.
OF_THE_START = ("name", "seed", "whiten")


def kind_of(layer):
    """Returns a text that layers share which differ in their weights alone."""
    config = layer.get_config()
    config = {k: config[k] for k in config if k not in OF_THE_START}
    return f"{type(layer)} {config}"


def is_repeatable(layer, training):
    """Returns whether a layer does the same each time that it is called.

    The network of a user may do anything in Python, and training draws masks
    of dropout.
    """
    return all(
        type(inner).__module__.startswith("keras_glow.")
        and getattr(inner, "kind", "") is not None
        and not (training and getattr(inner, "dropout", 0))
        for inner in all_layers(layer)
    )


@contextlib.contextmanager
def shared_programs(owner):
    """Makes eager calls of layers run as programs, on JAX, in this context.

    JAX would compile each operation of each shape by itself. The program of a
    layer serves all others of its kind, and is kept as long as its owner, any
    object. XLA may round otherwise in a program than in one operation after
    another; what trains, encodes and decodes are programs too.
    """
    token = _current.set(_programs.setdefault(owner, {}))
    try:
        yield
    finally:
        _current.reset(token)


def run(layer, method, *tensors, **arguments):
    """Calls a method of a layer, in `shared_programs` as a program."""
    programs = _current.get()
    if (
        programs is None
        or not compiles_operations((tensors, arguments))
        or not is_repeatable(layer, arguments.get("training"))
    ):
        return method(*tensors, **arguments)
    arguments = {k: v for k, v in arguments.items() if v is not None}
    settings = {k: v for k, v in arguments.items() if isinstance(v, bool)}
    named = {k: v for k, v in arguments.items() if k not in settings}
    variables = layer.variables
    shapes = tuple(variable.shape for variable in variables)
    key = kind_of(layer), method.__name__, shapes, *settings.items()
    if key not in programs:

        def program(values, tensors, named):
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return method(*tensors, **named, **settings)

        programs[key] = compile_function(program)
    return programs[key]([v.value for v in variables], tensors, named)

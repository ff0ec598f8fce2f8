"""What the README and the docstrings show runs."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re
import types
import typing

import keras
import numpy as np
import pytest
from helpers import random_images

import keras_glow

README = pathlib.Path(__file__).parents[2] / "README.md"
OTHER_BACKENDS = ("keras_glow.backend.jax", "keras_glow.backend.torch")
MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_glow.__path__, "keras_glow.")
    if module.name not in ("keras_glow.__main__", *OTHER_BACKENDS)
]


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend prints them"
)
@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    names = {"np": np, "keras": keras, "ops": keras.ops}
    names["Bijection"] = keras_glow.layers.Bijection
    result = doctest.testmod(
        importlib.import_module(name),
        extraglobs=names,
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE,
    )
    assert result.failed == 0


def test_readme_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("faces.npz", images=random_images(64, (32, 32, 3)))
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 15
    # The same lines, made short: two epochs of a model of one step.
    for long, short in (("epochs=20", "epochs=2"), ("depth=4", "depth=1")):
        assert long in code
        code = code.replace(long, short)
    exec(code, {})
    assert (tmp_path / "faces.png").stat().st_size > 1000
    assert (tmp_path / "faces.keras").exists()


def public():
    """Each public name, and what it stands for."""
    for module in (
        keras_glow,
        keras_glow.callbacks,
        keras_glow.images,
        keras_glow.latent,
        keras_glow.layers,
        keras_glow.schedules,
    ):
        own = module.__dict__.get("__all__")
        for name, value in vars(module).items():
            home = getattr(value, "__module__", "") or ""
            if name.startswith("_"):
                continue
            if name in (own or ()) or (not own and home == module.__name__):
                yield name, value


def test_every_public_name_is_documented():
    kinds = types.FunctionType, types.ModuleType, type
    without = [
        name
        for name, value in public()
        if isinstance(value, kinds) and not value.__doc__
    ]
    assert not without


# What Keras documents: it has no types.
OF_KERAS = ("build", "call", "compute_", "make_", "on_", "save_own", "load_own")


def test_every_public_function_has_types():
    functions = {}
    for name, value in public():
        if inspect.isclass(value):
            for kind in value.__mro__:
                if kind.__module__.startswith("keras_glow"):
                    functions |= {
                        f"{kind.__name__}.{method}": function
                        for method, function in vars(kind).items()
                        if inspect.isfunction(function)
                        and function.__doc__
                        and not method.startswith(("_", *OF_KERAS))
                    }
        elif inspect.isfunction(value):
            functions[name] = value
    assert len(functions) > 40
    without = {}
    for name, function in functions.items():
        hints = typing.get_type_hints(function)
        names = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind
            not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ]
        missing = {*names, "return"} - {"self", "cls", *hints}
        if missing:
            without[name] = missing
    assert not without

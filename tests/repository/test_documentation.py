"""What the README and the docstrings show runs."""

import doctest
import importlib
import pathlib
import pkgutil
import re

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


def test_every_public_name_is_documented():
    for module in (keras_glow, keras_glow.latent, keras_glow.layers):
        for name in module.__all__:
            assert getattr(module, name).__doc__, name

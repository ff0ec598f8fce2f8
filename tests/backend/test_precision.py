"""TensorFloat-32: never in a flow, unless it was allowed."""

import keras
import numpy as np
import pytest

import keras_glow
from keras_glow import backend, layers
from keras_glow.backend import process

pytestmark = pytest.mark.every_backend

BACKEND = keras.backend.backend()


def tf32_is_on():
    """What the backend would have a GPU do in a flow."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.config.experimental.tensor_float_32_execution_enabled()
    if BACKEND == "jax":
        import jax

        return jax.lax.Precision.HIGHEST not in precisions(layers.Split())
    import torch

    # These raise an error if the older and the newer settings do not agree.
    with torch.backends.cudnn.flags():
        pass
    flags = {
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision() == "high",
    }
    newer = {
        torch.backends.cudnn.conv.fp32_precision,
        torch.backends.cuda.matmul.fp32_precision,
        torch.backends.mkldnn.conv.fp32_precision,
        torch.backends.mkldnn.matmul.fp32_precision,
    }
    assert len(flags) == 1
    assert newer == {"tf32" if True in flags else "ieee"}
    return flags.pop()


@pytest.fixture
def fresh(monkeypatch):
    """As before the first layer of a process, with TensorFloat-32 on."""
    backend.set_tf32(True)
    monkeypatch.setattr(process, "_tf32", None)
    yield
    keras_glow.allow_tf32(False)


@pytest.fixture
def gpu(fresh, monkeypatch):
    """As on a machine with a GPU."""
    monkeypatch.setattr(backend, "has_gpu", lambda: True)


def test_a_layer_turns_it_off(gpu):
    layers.Squeeze()
    assert not tf32_is_on()


def test_a_model_that_is_loaded_turns_it_off(gpu):
    keras_glow.Glow.from_preset("faces32")
    assert not tf32_is_on()


@pytest.mark.skipif(BACKEND == "jax", reason="it sets nothing of the process")
def test_without_a_gpu_the_process_stays_as_it_is(fresh, monkeypatch):
    monkeypatch.setattr(backend, "has_gpu", lambda: False)
    assert tf32_is_on()
    layers.Squeeze()
    assert tf32_is_on()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it can hide a GPU")
def test_a_gpu_that_is_hidden_is_none(monkeypatch):
    import tensorflow as tf

    there = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    for name in ("list_physical_devices", "get_visible_devices"):
        monkeypatch.setattr(tf.config, name, lambda kind: there)
    assert backend.has_gpu()
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [])
    assert not backend.has_gpu()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it looks at the CPU too")
def test_bfloat16_is_computed_where_there_are_instructions_for_it(
    tmp_path, monkeypatch
):
    import tensorflow as tf

    from keras_glow.backend import tensorflow

    cpu = tmp_path / "cpuinfo"
    monkeypatch.setattr(tensorflow, "CPU_INFO", cpu)
    assert not backend.computes_bfloat16()
    for flags, computes in {"avx2 fma": False, "avx512_bf16 fma": True}.items():
        cpu.write_text(f"flags\t\t: fpu {flags}\n")
        assert backend.computes_bfloat16() == computes
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["GPU"])
    for version, computes in {(7, 5): False, (8, 0): True}.items():
        monkeypatch.setattr(
            tf.config.experimental,
            "get_device_details",
            lambda gpu, version=version: {"compute_capability": version},
        )
        assert backend.computes_bfloat16() == computes


def test_it_stays_as_it_was_set(gpu):
    keras_glow.allow_tf32()
    layers.Squeeze()
    assert tf32_is_on()
    keras_glow.allow_tf32(False)
    assert not tf32_is_on()
    layers.Squeeze()
    assert not tf32_is_on()


@pytest.mark.skipif(BACKEND != "torch", reason="settings of Torch")
@pytest.mark.parametrize(
    "name", ["", "cudnn", "cudnn.conv", "cuda.matmul", "mkldnn"]
)
def test_no_setting_of_torch_is_left_behind(name, gpu):
    import torch

    settings = torch.backends
    for part in filter(None, name.split(".")):
        settings = getattr(settings, part)
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        layers.Squeeze()
        assert not tf32_is_on()
        keras_glow.allow_tf32()
        assert tf32_is_on()
    finally:
        settings.fp32_precision = before


def test_bad_argument():
    with pytest.raises(ValueError, match="True or False.*allowed='off'"):
        keras_glow.allow_tf32("off")


@pytest.mark.skipif(BACKEND != "jax", reason="the others set the process")
def test_every_product_of_a_flow_says_so_to_jax():
    import jax

    before = jax.config.jax_default_matmul_precision
    model = keras_glow.Glow((8, 8, 1), levels=2, depth=1, width=4)
    x = np.zeros((1, 8, 8, 1), "float32")
    z = np.zeros((1, 64), "float32")
    for function, inputs in ((model.encoder, x), (model.decoder, z)):
        assert precisions(function, inputs) == {jax.lax.Precision.HIGHEST}
    gradient = jax.grad(lambda t: model.scorer(t).sum())
    assert precisions(gradient, x) == {jax.lax.Precision.HIGHEST}
    matrix = model.bijections[1].permutation.matrix  # also outside of a call
    assert precisions(lambda _: matrix()) == {jax.lax.Precision.HIGHEST}
    assert jax.config.jax_default_matmul_precision == before


def precisions(function, inputs=None):
    """The precisions of all products and convolutions of a program of JAX."""
    import jax

    if inputs is None:
        inputs = np.zeros((1, 4, 4, 2), "float32")
    program = jax.make_jaxpr(lambda t: function(t))(inputs)
    found = list(products(program.jaxpr))
    assert found
    return {
        precision
        for equation in found
        for precision in equation.params["precision"] or (None,)
    }


def products(jaxpr):
    """The matrix products and convolutions of a program of JAX."""
    import jax

    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            yield equation
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from products(inner)

"""Images of more than 8 bits."""

import keras
import numpy as np
import pytest
from helpers import EAGERLY, move_weights, to_numpy, untraced
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import Glow
from keras_glow.files.export import standalone
from keras_glow.flow import pixels
from keras_glow.flow.initialization import initialize

SHAPE = (8, 8, 2)
SMALL = {"levels": 2, "depth": 2, "width": 8}


def every_value(bits, shape=SHAPE):
    """Images that hold every value of a pixel, in random places."""
    values = np.random.default_rng(0).permutation(2**bits).astype("uint16")
    return np.resize(values, (-(-(2**bits) // np.prod(shape)), *shape))


@pytest.mark.every_backend
@pytest.mark.parametrize("bits", [8, 9, 12])
@pytest.mark.parametrize("noise", [0.0, 0.3, 0.5, 1 - 2**-24])
def test_noise_leaves_every_value_in_its_bin(bits, noise):
    values = every_value(bits)
    x = pixels.dequantize(values, ops.convert_to_tensor(noise, "float32"), bits)
    assert_array_equal(pixels.quantize(x, bits), values)


def test_noise_leaves_every_value_of_16_bits_in_its_bin_in_float64():
    values = every_value(16)
    noise = ops.convert_to_tensor(1 - 2**-20, "float64")
    x = pixels.dequantize(values, noise, 16)
    assert_array_equal(pixels.quantize(x, 16), values)


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "bits",
    [*(pytest.param(n, marks=pytest.mark.slow_on_jax) for n in (9, 12)), 16],
)
def test_every_value_comes_back(bits, float64):
    model = Glow(SHAPE, bits=bits, **SMALL)
    assert model.dtype == ("float64" if bits > 12 else "float32")
    images = every_value(bits)
    initialize(model.encoder, model.dequantize(images[:32], seed=0))
    move_weights(model, 0.05)
    decoded = model.decode(model.encode(images, batch_size=256), batch_size=256)
    assert decoded.dtype == "uint16"
    assert_array_equal(decoded, images)


@pytest.mark.every_backend
@pytest.mark.slow_on_jax
def test_images_of_12_bits_train_like_others(tmp_path):
    images = every_value(12)
    model = untraced(Glow(SHAPE, bits=12, **{**SMALL, "levels": 1}))
    model.compile("adam", run_eagerly=EAGERLY)
    history = model.fit(images, validation_data=images, verbose=0).history
    bits = model.bits_per_dim(images, seed=0).mean()
    # Noise of 12 bits takes about 12.
    assert 11.5 < bits < 14
    assert history["val_bits_per_dim"][0] == pytest.approx(bits, rel=0.01)
    assert model.sample(2, seed=0).dtype == "uint16"
    model.save(tmp_path / "model.keras")
    loaded = untraced(keras_glow.load_model(tmp_path / "model.keras"))
    assert_array_equal(loaded.sample(2, seed=0), model.sample(2, seed=0))
    # Integers of any type are taken, whatever reads them.
    batches = [model.bits_per_dim(images.astype(t), seed=0) for t in "HiqQ"]
    assert all(np.array_equal(batches[0], batch) for batch in batches[1:])


def test_the_doctor_takes_12_bits():
    images = every_value(12)
    model = Glow(SHAPE, bits=12, **SMALL)
    initialize(model.encoder, model.dequantize(images, seed=0))
    assert not model.diagnose(images[:4]).problems


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_a_dataset_may_yield_images_of_12_bits(dtype):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return (every_value(12)[:4].astype(dtype),)

    model = Glow(SHAPE, bits=12, **{**SMALL, "levels": 1})
    model.compile("adam", run_eagerly=EAGERLY)
    history = model.fit(Batches(), verbose=0).history
    assert np.isfinite(history["bits_per_dim"]).all()


@pytest.mark.parametrize(
    "images",
    [
        np.full((1, *SHAPE), 4096),
        np.full((1, *SHAPE), -1),
        np.full((1, *SHAPE), 4096, "uint16"),
        np.zeros((1, *SHAPE)),
    ],
)
def test_what_12_bits_do_not_hold_is_refused(images):
    model = Glow(SHAPE, bits=12, **SMALL)
    with pytest.raises(ValueError, match=r"integers 0\.\.4095 of shape"):
        model.encode(images)


def test_16_bits_are_refused_in_float32():
    with pytest.raises(ValueError, match="float64 or None, for bits=13"):
        Glow(SHAPE, bits=13, dtype="float32", **SMALL)


@pytest.mark.every_backend
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_jax_without_float64_refuses_16_bits():
    with pytest.raises(ValueError, match="`bits`.*jax_enable_x64"):
        Glow(SHAPE, bits=16, **SMALL)


def test_exported_functions_take_12_bits():
    model = Glow(SHAPE, bits=12, **SMALL)
    move_weights(model, 0.05)
    images = every_value(12)[:4]
    encoder, decoder = standalone(model)
    encoded = encoder({"images": images})
    log_prob = model.log_prob(images, seed="center")
    assert_allclose(encoded["log_prob"], log_prob, rtol=1e-6)
    back = decoder(
        {"z": encoded["z"], "temperature": ops.convert_to_tensor(1.0)}
    )["images"]
    assert_array_equal(to_numpy(back), images)
    assert to_numpy(back).dtype == "uint16"

"""p(image given a context): the whole model."""

import keras
import numpy as np
import pytest
from helpers import (
    EAGERLY,
    jacobians,
    move_weights,
    random_images,
    to_numpy,
    untraced,
)
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import Glow
from keras_glow.callbacks import ReconstructionError, SampleGrid
from keras_glow.data import ImageSequence
from keras_glow.layers.context_network import resized

IMAGES = random_images(6, (4, 4, 3))
LABELS = np.array([0, 2, 1, 1, 0, 2])
CONTEXTS = {
    (3,): np.random.default_rng(0).normal(size=(6, 3)).astype("float32"),
    (3, 5, 2): random_images(6, (3, 5, 2)),
}
pytestmark = pytest.mark.every_backend


def small(context_shape=(3,), **kwargs):
    arguments = {"levels": 2, "depth": 1, "width": 4, **kwargs}
    return untraced(Glow((4, 4, 3), context_shape=context_shape, **arguments))


def moved(*args, **kwargs):
    model = small(*args, **kwargs)
    move_weights(model, 0.2)
    return model


@pytest.fixture(scope="module")
def model():
    return moved()


@pytest.mark.parametrize("shape", CONTEXTS)
def test_a_new_model_is_the_unconditioned_one(shape):
    given = {"context": CONTEXTS[shape]}
    z = small(shape, num_classes=3).encode(IMAGES, LABELS, **given)
    other = small(None, num_classes=3)
    assert_allclose(z, other.encode(IMAGES, LABELS), atol=1e-6)


@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("shape", CONTEXTS)
def test_images_come_back_given_their_context_alone(shape, num_classes):
    model = moved(shape, num_classes=num_classes)
    given = {"context": CONTEXTS[shape]}
    if num_classes:
        given["labels"] = LABELS
    z = model.encode(IMAGES, **given)
    assert_array_equal(model.decode(z, **given), IMAGES)
    given["context"] = given["context"][::-1]
    assert np.abs(model.encode(IMAGES, **given) - z).max() > 0.01
    assert (model.decode(z, **given) != IMAGES).any()


def test_couplings_may_read_the_class_as_a_context():
    plain = small(None, num_classes=3)
    model = untraced(plain.with_arguments(class_couplings=True))
    z = plain.encode(IMAGES, LABELS)
    assert_allclose(model.encode(IMAGES, LABELS), z, atol=1e-6)
    move_weights(model, 0.2)
    z = model.encode(IMAGES, LABELS)
    assert_array_equal(model.decode(z, LABELS), IMAGES)
    # What the first coupling makes of an image depends on the class.
    x = ops.convert_to_tensor(model.dequantize(IMAGES, "center"))
    squeeze, step = model.bijections[:2]
    one, other = (
        to_numpy(step([squeeze(x), model.given([labels]).features[0]]))
        for labels in (LABELS, (LABELS + 1) % 3)
    )
    assert (np.abs(one - other).max((1, 2, 3)) > 1e-3).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": None},
        {"num_classes": 3, "context_shape": (3,)},
        {"num_classes": 3, "classifier_weight": 0.01},
    ],
)
def test_couplings_that_cannot_read_the_class_are_refused(arguments):
    with pytest.raises(ValueError, match="^`class_couplings` is expected"):
        Glow((4, 4, 3), levels=1, depth=1, class_couplings=True, **arguments)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("network", ["paper", "residual"])
def test_log_prob_is_that_of_the_jacobian(network, float64):
    model = moved(network=network, blocks=1, dtype="float64")
    context = CONTEXTS[3,][:1].astype("float64")
    x = np.random.default_rng(1).uniform(-0.5, 0.5, (1, 4, 4, 3))

    def inputs(x):
        x = ops.convert_to_tensor(x)
        return [x, ops.repeat(context, x.shape[0], axis=0)]

    (matrix,) = jacobians(lambda x: model.encoder(inputs(x)), x)
    z = to_numpy(model.encoder(inputs(x)))
    density = -np.sum(z**2 + np.log(2 * np.pi)) / 2
    expected = density + np.linalg.slogdet(matrix).logabsdet
    actual = to_numpy(model.scorer(inputs(x)))
    assert_allclose(actual, [expected], rtol=1e-9)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("num_classes", [None, 3])
def test_every_way_to_hand_it_in_trains_alike(num_classes):
    context = CONTEXTS[3,]
    targets = (LABELS, context) if num_classes else context
    named = {"labels": LABELS, "context": context} if num_classes else context
    batches = ImageSequence(IMAGES, targets, batch_size=6, shuffle=False)
    losses = []
    for data in (
        (IMAGES, targets),
        (IMAGES, named),
        (batches,),
        ((pair for pair in [(IMAGES, targets)]),),
    ):
        model = small(num_classes=num_classes)
        model.compile(keras.optimizers.SGD(1e-3), run_eagerly=EAGERLY)
        history = model.fit(
            *data,
            batch_size=6,
            shuffle=False,
            verbose=0,
            validation_data=(IMAGES, targets),
        )
        losses.append(history.history["loss"] + history.history["val_loss"])
    assert_allclose(losses, len(losses) * losses[:1], rtol=1e-6)
    labels = LABELS if num_classes else None
    (loss, _) = model.evaluate(IMAGES, labels, context=context, verbose=0)
    assert_allclose(loss, losses[0][1], rtol=1e-6)
    (loss, _) = model.evaluate(IMAGES, targets, verbose=0)
    assert_allclose(loss, losses[0][1], rtol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a tf.data.Dataset"
)
def test_datasets_of_tensorflow_are_taken():
    import tensorflow as tf

    model = small()
    model.compile(keras.optimizers.SGD(1e-3), run_eagerly=EAGERLY)
    data = tf.data.Dataset.from_tensor_slices((IMAGES, CONTEXTS[3,])).batch(3)
    assert np.isfinite(model.fit(data, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match=r"^`y` is expected.*\(batch, 3\)"):
        model.fit(data.map(lambda images, context: images), verbose=0)


@pytest.mark.slow_on_jax
def test_it_learns_what_the_context_tells():
    rng = np.random.default_rng(0)
    context = rng.integers(0, 2, (64, 1)).astype(bool)
    noise = rng.integers(0, 40, (64, 4, 4, 3))
    images = (noise + 200 * context[:, :, None, None]).astype("uint8")
    model = small((1,), levels=1)
    model.compile(keras.optimizers.Adam(0.02))
    model.fit(images, context, epochs=20, verbose=0)
    told = model.bits_per_dim(images, context=context, seed=0).mean()
    lied = model.bits_per_dim(images, context=~context, seed=0).mean()
    assert lied > told + 0.5


def test_files_keep_it(model, tmp_path):
    path = tmp_path / "model.keras"
    model.save(path)
    z = model.encode(IMAGES, context=CONTEXTS[3,])
    for load in (keras_glow.load_model, keras.saving.load_model):
        loaded = untraced(load(path))
        assert_array_equal(loaded.encode(IMAGES, context=CONTEXTS[3,]), z)
        assert loaded.context_shape == (3,)


def test_a_trained_model_may_begin_to_take_a_context():
    model = moved(None)
    other = untraced(model.with_arguments(context_shape=(3, 5, 2)))
    given = {"context": CONTEXTS[3, 5, 2]}
    z = model.encode(IMAGES)
    assert_allclose(other.encode(IMAGES, **given), z, atol=1e-6)


def test_one_context_may_be_for_all_samples(model):
    row = CONTEXTS[3,][0]
    each = model.sample(5, seed=3, context=np.stack(5 * [row]))
    assert_array_equal(model.sample(5, seed=3, context=row), each)
    other = model.sample(5, seed=3, context=CONTEXTS[3,][1])
    assert (other != each).any()


@pytest.mark.slow_on_jax
def test_the_doctor_and_callbacks_take_it(model, tmp_path):
    context = CONTEXTS[3,]
    assert model.diagnose(IMAGES, context=context).values_lost == 0
    fitted = small()
    fitted.compile(keras.optimizers.SGD(1e-4), run_eagerly=EAGERLY)
    history = fitted.fit(
        IMAGES,
        context,
        verbose=0,
        callbacks=[
            ReconstructionError(IMAGES, context=context),
            SampleGrid(tmp_path, count=2, context=context[0]),
        ],
    )
    assert history.history["reconstruction_error"][0] < 1e-3
    assert (tmp_path / "epoch_0001.png").exists()


def test_flipped_images_have_flipped_contexts():
    images = random_images(50, (4, 4, 3))
    (batch, (labels, context)) = ImageSequence(
        images, (np.arange(50), images.copy()), batch_size=50, flip=True
    )[0]
    assert_array_equal(batch, context)
    assert (batch != images[labels]).any()


def test_resizing_averages_and_interpolates():
    x = np.arange(8.0).reshape(1, 1, 8, 1)
    smaller = to_numpy(resized(ops.convert_to_tensor(x), 1, 4)).reshape(-1)
    assert_allclose(smaller[1:3], [2.5, 4.5], rtol=1e-6)
    larger = to_numpy(resized(ops.convert_to_tensor(x), 2, 16)).reshape(2, 16)
    assert_allclose(larger[0], np.clip(np.arange(16) / 2 - 0.25, 0, 7))


BAD = {
    "missing": None,
    "shape": CONTEXTS[3,][:, :2],
    "count": CONTEXTS[3,][:5],
    "nan": np.where(CONTEXTS[3,] > 0, np.nan, 0.0),
    "text": np.full((6, 3), "a"),
    "image": CONTEXTS[3, 5, 2],
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_context_is_refused_in_one_line(model, kind):
    context = BAD[kind]
    fresh = small()
    fresh.compile()
    z = np.zeros((6, 48), "float32")
    for call in (
        lambda: model.encode(IMAGES, context=context),
        lambda: model.decode(z, context=context),
        lambda: model.log_prob(IMAGES, context=context),
        lambda: model.sample(6, context=context),
        lambda: model.diagnose(IMAGES, context=context),
        lambda: fresh.fit(IMAGES, context, verbose=0),
        lambda: fresh.evaluate(IMAGES, context=context, verbose=0),
        lambda: fresh.train_on_batch(IMAGES, context),
    ):
        with pytest.raises(ValueError, match="^`.*context.*3.*Rec") as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1


def test_a_context_that_nobody_asked_for_is_refused():
    model = small(None)
    model.compile()
    context = CONTEXTS[3,]
    for call in (
        lambda: model.encode(IMAGES, context=context),
        lambda: model.sample(6, context=context),
        lambda: model.evaluate(IMAGES, context=context, verbose=0),
    ):
        with pytest.raises(ValueError, match="^`context` is expected.*None"):
            call()


@pytest.mark.parametrize("shape", [3, (), (3, 3), (0,), (3.0,), (2**17,), "3"])
def test_bad_shapes_of_a_context_are_refused(shape):
    with pytest.raises(ValueError, match="^`context_shape` is expected"):
        small(shape)

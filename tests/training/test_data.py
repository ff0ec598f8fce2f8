"""Order, flips and first images."""

import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow import Glow
from keras_glow.checks import ImageFormat
from keras_glow.data import (
    ImageSequence,
    open_images,
    open_inputs,
    open_validation_data,
)


@pytest.fixture
def images():
    images = np.zeros((10, 2, 4, 1), "uint8")
    images[:, 0, 0, 0] = np.arange(10)
    images[:, 1] = 7
    return images


def epoch(sequence):
    return np.concatenate([sequence[i][0] for i in range(len(sequence))])


def test_every_image_once_in_an_order_of_seed_and_epoch(images):
    sequence = ImageSequence(images, batch_size=3, seed=1)
    assert len(sequence) == 4
    first = epoch(sequence)
    sequence.on_epoch_begin()
    sequence.on_epoch_end()
    second = epoch(sequence)
    assert_array_equal(np.sort(first[:, 0, 0, 0]), np.arange(10))
    assert np.any(first != second)
    later = ImageSequence(images, batch_size=3, seed=1, epoch=1)
    assert_array_equal(epoch(later), second)
    other = ImageSequence(images, batch_size=3, seed=2)
    assert np.any(epoch(other) != first)


def test_flips_mirror_about_half_and_leave_the_array_alone(images):
    many = np.repeat(images[5:6], 1000, axis=0)
    before = many.copy()
    batch = ImageSequence(many, batch_size=1000, flip=True)[0][0]
    flipped = batch[:, 0, 3, 0] == 5
    assert_array_equal(batch[flipped, 0, 0, 0], 0)
    assert 400 < flipped.sum() < 600
    assert_array_equal(many, before)


def test_labels_stay_with_their_images(images):
    sequence = ImageSequence(images, np.arange(10), batch_size=4)
    batch, labels = sequence[1]
    assert_array_equal(batch[:, 0, 0, 0], labels)


def test_unshuffled_batches_have_the_order_of_the_array(images):
    sequence = ImageSequence(images, batch_size=4, shuffle=False, epoch=3)
    assert_array_equal(epoch(sequence), images)


@pytest.mark.parametrize("count, batches", [(10, 3), (9, 3), (2, 1)])
def test_equal_batches_leave_out_images_of_one_epoch_only(
    images, count, batches
):
    sequence = ImageSequence(images[:count], batch_size=3, drop_remainder=True)
    seen = set()
    for _ in range(9):
        assert len(sequence) == batches
        found = epoch(sequence)[:, 0, 0, 0]
        assert len(set(found)) == min(3 * batches, count)
        seen.update(found)
        sequence.on_epoch_begin()
        sequence.on_epoch_end()
    assert seen == set(range(count))


@pytest.fixture
def compiled(monkeypatch):
    """Makes models with compiled steps: the sizes of batches they compile."""
    if keras.backend.backend() == "torch":
        pytest.skip("nothing is compiled on Torch")
    sizes = []
    step = keras_glow.Glow.call

    def call(self, inputs, training=None):
        sizes.append((training, keras.tree.flatten(inputs)[0].shape[0]))
        return step(self, inputs, training=training)

    monkeypatch.setattr(keras_glow.Glow, "call", call)

    def model(**arguments):
        model = keras_glow.Glow(
            (4, 4, 1), levels=1, depth=1, width=2, **arguments
        )
        model.compile(keras.optimizers.SGD(1e-5), jit_compile=True)
        return model

    return model, sizes


@pytest.mark.every_backend
@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
def test_a_fit_with_validation_compiles_two_programs(compiled):
    model, sizes = compiled[0](), compiled[1]
    images = random_images(20, (4, 4, 1))
    model.fit(
        *(images, None, 8, 2, 0), validation_data=images[:13], shuffle=True
    )
    assert int(to_numpy(model.optimizer.iterations)) == 4
    assert sorted(sizes) == [(False, 8), (True, 8)]


@pytest.mark.parametrize(
    "shuffle, equal, steps",
    [(True, True, 2), (False, True, 3), (True, False, 3)],
)
def test_only_shuffled_epochs_of_equal_batches_leave_images_out(
    images, shuffle, equal, steps
):
    source = open_images(images, None, ImageFormat(images.shape[1:], 8))
    assert len(source.for_training(4, 0, 0, shuffle, equal).data) == steps


@pytest.mark.every_backend
@pytest.mark.slow_on_jax
def test_what_fills_up_the_last_batch_does_not_count(compiled):
    model = compiled[0](num_classes=3, classifier_weight=0.1)
    images, labels = random_images(13, (4, 4, 1)), np.arange(13) % 3
    model.fit(images, labels, verbose=0)
    whole, *parts = (
        model.evaluate(images, labels, size, verbose=0, return_dict=True)
        for size in (13, 5, 64)
    )
    assert whole["bits_per_dim"] > 0
    for part in parts:
        for name, value in whole.items():
            assert_allclose(part[name], value, rtol=1e-6, err_msg=name)


def pipeline(sequence):
    """What Keras trains on if `fit` is given it, and its callbacks."""
    image_format = ImageFormat(sequence.images.shape[1:], 8)
    source = open_images(sequence, None, image_format)
    batches = source.for_training(32, 0, 0, True)
    assert not batches.shuffle
    return batches.data, batches.callbacks


def test_a_pipeline_gives_the_epoch_at_which_it_is_begun(images):
    sequence = ImageSequence(images, np.arange(10), batch_size=4, seed=1)
    orders = [
        epoch(ImageSequence(images, batch_size=4, seed=1, epoch=number))
        for number in range(2)
    ]
    batches, callbacks = pipeline(sequence)
    if keras.backend.backend() != "tensorflow":
        assert batches is sequence and not callbacks
        return
    assert not batches.options().autotune.enabled and len(batches) == 3
    begun = iter(batches)
    first = [next(begun)]
    for callback in callbacks:
        callback.on_epoch_begin(0, None)
        callback.on_epoch_end(0, None)
    first += list(begun)
    for order, found in zip(orders, (first, list(batches)), strict=True):
        found, labels = (
            np.concatenate(part) for part in zip(*found, strict=True)
        )
        assert_array_equal(found, order)
        assert_array_equal(found[:, 0, 0, 0], labels)


@pytest.mark.parametrize("argument", [{"batch": 1}, {"workers": 2}])
def test_what_keras_counts_or_does_itself_has_no_pipeline(images, argument):
    sequence = ImageSequence(images, batch_size=4, **argument)
    batches, callbacks = pipeline(sequence)
    assert batches is sequence and not callbacks


def test_first_images_of_a_generator_are_not_lost(images):
    def batches():
        for image in images:
            yield (image[None],)

    source = open_inputs(batches())
    assert_array_equal(*source.first(3, seed=0), images[:3])
    rest = np.concatenate([b[0] for b in source.data])
    assert_array_equal(rest, images)


def test_first_images_of_an_array_are_drawn_from_all_of_it(images):
    source = open_inputs(images)
    assert len(source.first(5, seed=0)[0]) == 5 and source.data is images
    assert len(source.first(99, seed=0)[0]) == 10
    values = {
        int(v)
        for seed in range(20)
        for v in source.first(5, seed)[0][:, 0, 0, 0]
    }
    assert values == set(range(10))


def test_tensors_stay_tensors_for_the_encoder(images, monkeypatch):
    fitted = []
    monkeypatch.setattr(keras.Model, "fit", lambda _, x: fitted.append(x))
    x = keras.ops.convert_to_tensor(images / 256 - 0.5, "float32")
    labels = keras.ops.zeros(10, "int32")
    for classes, inputs in ((None, x), (2, [x, labels])):
        Glow((2, 4, 1), 1, 1, 2, num_classes=classes).encoder.fit(inputs)
        given, expected = map(keras.tree.flatten, (fitted.pop(), inputs))
        assert all(a is b for a, b in zip(given, expected, strict=True))


def test_a_validation_dataset_is_not_asked_for_its_length(images):
    class Endless:
        def __iter__(self):
            return iter([(images,)])

        def __len__(self):
            raise TypeError("it has none")

    dataset = Endless()
    source = open_validation_data(dataset, ImageFormat((2, 4, 1), 8))
    source.peek()
    assert source.for_evaluation(8) is dataset


def test_no_images():
    with pytest.raises(ValueError, match="no batch"):
        open_inputs(iter([])).first(5, seed=0)

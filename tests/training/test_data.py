"""Order, flips and first images."""

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from keras_glow import Glow
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


def pipeline(sequence):
    """What Keras trains on if `fit` is given it, and its callbacks."""
    source = open_images(sequence, None, sequence.images.shape[1:], None)
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
    assert_array_equal(source.first(3, seed=0), images[:3])
    rest = np.concatenate([b[0] for b in source.data])
    assert_array_equal(rest, images)


def test_first_images_of_an_array_are_drawn_from_all_of_it(images):
    source = open_inputs(images)
    assert len(source.first(5, seed=0)) == 5 and source.data is images
    assert len(source.first(99, seed=0)) == 10
    values = {
        int(v) for seed in range(20) for v in source.first(5, seed)[:, 0, 0, 0]
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
    source = open_validation_data(dataset, (2, 4, 1), None)
    source.peek()
    assert source.for_evaluation(8) is dataset


def test_no_images():
    with pytest.raises(ValueError, match="no batch"):
        open_inputs(iter([])).first(5, seed=0)

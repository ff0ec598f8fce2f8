"""Order, flips and first images."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from keras_glow.data import ImageSequence, first_images


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


def test_first_images_of_a_generator_are_not_lost(images):
    def batches():
        for image in images:
            yield (image[None],)

    first, rest = first_images(batches(), 3, seed=0)
    assert_array_equal(first, images[:3])
    assert_array_equal(np.concatenate([b[0] for b in rest]), images)


def test_first_images_of_an_array_are_drawn_from_all_of_it(images):
    first, same = first_images(images, 5, seed=0)
    assert same is images and len(first) == 5
    assert len(first_images(images, 99, seed=0)[0]) == 10
    values = {
        int(v)
        for seed in range(20)
        for v in first_images(images, 5, seed)[0][:, 0, 0, 0]
    }
    assert values == set(range(10))


def test_no_images():
    with pytest.raises(ValueError, match="no batch"):
        first_images(iter([]), 5, seed=0)

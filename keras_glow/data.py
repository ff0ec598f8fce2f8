"""The one door for data: all inputs of `fit` and `evaluate` become a `Source`.

`open_images` tells arrays, datasets and generators apart, checks them and
converts them, once. Nothing behind it asks for their type: a `Source` knows its
first images, its order, its batches and its labels. A new kind of input is a
new subclass of `Source`. `ImageSequence` is for users. May import `checks`.
"""

import copy
import itertools
import types
import typing

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from keras_glow.checks import (
    NO_CONDITIONS,
    Conditions,
    as_array,
    check_batch,
    check_boolean,
    check_images,
    check_integer,
    check_seed,
    plain_arrays,
    refuse,
)


class ImageSequence(keras.utils.PyDataset):
    """Batches of an image array, shuffled, and flipped at random if asked.

    The order and the flips of an epoch are a function of `(seed, epoch)` alone,
    so a run that is resumed at `epoch` sees the same batches as an
    uninterrupted run. `Glow.fit` does not shuffle them again.

    Args:
        images: array `(count, height, width, channels)`, count >= 1; a
            memory map is read batch by batch.
        labels: int array `(count,)`, or any other `(count, ...)` that belongs
            to the images, such as a context; a tuple of them; or None. Images
            `(count, height, width, channels)` are mirrored like the others.
        batch_size: int >= 1; the last batch of an epoch may be smaller.
        flip: bool, whether half of the images, drawn anew each epoch, are
            mirrored left to right.
        seed: int 0..2**32 - 1.
        epoch: int >= 0, the epoch to begin with.
        batch: int >= 0, the batch of that epoch to begin with: the first epoch
            has this many batches fewer.
        shuffle: bool; if False, every epoch has the order of the array.
        drop_remainder: bool, whether a smaller last batch is left out, unless
            it is the only one. In another epoch its images come earlier. A
            compiled step is compiled once more for a batch of another size.
        **kwargs: `keras.utils.PyDataset` arguments (`workers`, ...).

    Raises:
        ValueError: naming the argument that is not as described. `Glow.fit`
            checks the type and the range of the images.
    """

    def __init__(
        self,
        images: npt.ArrayLike,
        labels: npt.ArrayLike | None = None,
        batch_size: int = 32,
        flip: bool = False,
        seed: int = 0,
        epoch: int = 0,
        batch: int = 0,
        shuffle: bool = True,
        drop_remainder: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.images, self.labels = as_array(images), None
        if self.images is None or self.images.ndim != 4 or not len(self.images):
            expected = "one image or more, (count, height, width, channels)"
            refuse("images", f"an array of {expected}", images)
        count = len(self.images)
        if labels is not None:
            given = labels if isinstance(labels, tuple) else (labels,)
            given = tuple(map(as_array, given))
            if any(a is None or a.shape[:1] != (count,) for a in given):
                refuse("labels", f"one for each of {count} images", labels)
            self.labels = Conditions.to_targets(given)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.shuffle = check_boolean("shuffle", shuffle)
        self.flip = check_boolean("flip", flip)
        self.seed = check_seed(seed, or_none=False)
        self.drop_remainder = check_boolean("drop_remainder", drop_remainder)
        self.batch = 0
        batches = len(self)
        self._start(
            check_integer("epoch", epoch, 0),
            check_integer("batch", batch, 0, batches - 1),
        )

    def _start(self, epoch, batch):
        self.epoch = epoch
        self.batch = batch
        self._begun = False
        rng = np.random.default_rng([self.seed, epoch])
        self._order = np.arange(len(self.images))
        if self.shuffle:
            rng.shuffle(self._order)
        self._flipped = rng.random(len(self.images)) < 0.5

    def __len__(self):
        batches = count_batches(
            len(self.images), self.batch_size, self.drop_remainder
        )
        return batches - self.batch

    def __getitem__(self, index):
        start = (self.batch + index) * self.batch_size
        chosen = self._order[start : start + self.batch_size]

        def rows(array):
            part = array[chosen]  # a copy
            if self.flip and part.ndim == 4:
                flipped = self._flipped[chosen]
                part[flipped] = part[flipped, :, ::-1]
            return part

        if self.labels is None:
            return (rows(self.images),)
        return rows(self.images), keras.tree.map_structure(rows, self.labels)

    def on_epoch_begin(self):
        self._begun = True

    def on_epoch_end(self):
        # Keras also calls it before the first epoch.
        if self._begun:
            self._start(self.epoch + 1, batch=0)


class _Plain(keras.utils.PyDataset):
    """The batches of another `PyDataset`, see `plain_batch`."""

    def __init__(self, data):
        super().__init__(
            data.workers, data.use_multiprocessing, data.max_queue_size
        )
        self.data = data

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        return plain_batch(self.data[index])

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()


def plain_batch(batch):
    """Returns a batch as the tuple that Keras wants, its arrays plain."""
    if not isinstance(batch, (list, tuple)):
        batch = (batch,)
    return tuple(a if a is None else plain_arrays(a, "x") for a in batch)


def plain_data(x):
    """Returns any data with plain arrays, which Keras hands to the backend."""
    if isinstance(x, types.GeneratorType):
        return (plain_batch(batch) for batch in x)
    if isinstance(x, keras.utils.PyDataset):
        return x if isinstance(x, ImageSequence) else _Plain(x)
    return plain_arrays(x, "x")


class _Filled(ImageSequence):
    """Fills the last batch up, for `evaluate`, which leaves these images out.

    All batches have one size then, so a program is compiled for one only.
    """

    def _start(self, epoch, batch):
        super()._start(epoch, batch)
        batches = padded_batches(len(self.images), self.batch_size)
        self._order = np.concatenate(list(batches))


class Batches(typing.NamedTuple):
    """The data that Keras is to train on."""

    data: typing.Any  # that `keras.Model.fit` reads batches from
    shuffle: bool = False  # whether Keras is to shuffle the batches
    callbacks: typing.Sequence = ()  # that have to run beside it


class Source:
    """Images, and labels if there are any, on their way into a model.

    This class is for everything that yields batches and knows no order of its
    own: a `tf.data.Dataset`, a DataLoader, a generator. Its subclasses know
    more.

    Args:
        data: the data as the user gave it.
        image_format: `ImageFormat` that images must have; None for
            inputs of a model, which are not checked.
        conditions: `Conditions` of the model.
    """

    count = None  # how many images there are, if that is known

    def __init__(self, data, image_format=None, conditions=NO_CONDITIONS):
        self.data = plain_data(data)
        self.image_format, self.conditions = image_format, conditions

    def _check(self, batch):
        """Returns images and conditions of a batch, arrays, if all is well."""
        images, y, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if self.image_format is None:
            return [ops.convert_to_numpy(images)]
        images = check_images(images, self.image_format, "x")
        return [images, *self.conditions.open(y, len(images), "y")]

    def peek(self):
        """Checks the first images, or the specification if that is known."""
        if hasattr(self.data, "element_spec"):
            # tf.data knows types and shapes, and a batch may be expensive.
            images, y, _ = keras.utils.unpack_x_y_sample_weight(
                self.data.element_spec
            )
            check_batch(images, y, self.image_format, self.conditions)
        else:
            self.first(1, seed=0)

    def first(self, count, seed):
        """Returns the first images, and their conditions: a list of arrays.

        They are `count`, or all if fewer; an array chooses them at random, by
        `seed`. None at all is an error.
        """
        batches = iter(self.data)
        taken, checked, seen = [], [], 0
        for batch in batches:
            taken.append(batch)
            checked.append(self._check(batch))
            seen += len(checked[-1][0])
            if seen >= count:
                break
        if not seen:
            raise ValueError("`x` is expected to be images. Received: no batch")
        if batches is self.data:
            # A generator cannot be rewound, so another one yields the same
            # batches. Keras recognises a generator by its type, and refuses an
            # itertools.chain.
            self.data = (batch for batch in itertools.chain(taken, batches))
        columns = zip(*checked, strict=True)
        return [np.concatenate(arrays)[:count] for arrays in columns]

    def split(self, fraction):
        """Splits a part off the end, as `validation_split` of `fit` does.

        Returns two sources, the rest and the part; only an array has an end.
        """
        refuse("validation_split", "0 for a dataset", fraction)

    def for_training(
        self, batch_size, seed, batches_seen, shuffle, equal=False
    ):
        """Returns `Batches` to train on.

        Args:
            batch_size: int; data that yields batches has its own.
            seed: int, for the order.
            batches_seen: int, from which the order continues: two fits of one
                epoch see the same batches as one fit of two epochs.
            shuffle: bool.
            equal: bool, whether an array is to have batches of one size: those
                to train on leave out the rest of a shuffled epoch.
        """
        return Batches(self.data)

    def seek(self, batches_seen):
        """Moves training to another place, once a callback restores a model."""

    def for_evaluation(self, batch_size, equal=False):
        """Returns the data that Keras is to evaluate on, with conditions.

        With `equal` the last batch is filled up, and only the first `count`
        images of all batches are to be counted.
        """
        return self.data

    def images_of_step(self, step):
        """Returns arrays to find out why a step failed, and if it saw them.

        They are as of `first`, None if they are no longer available.
        """
        if iter(self.data) is self.data:
            return None, False
        return self.first(256, seed=0), False


class _Sequence(Source):
    """A `keras.utils.PyDataset`, whose batches can be read by number."""

    def for_training(
        self, batch_size, seed, batches_seen, shuffle, equal=False
    ):
        return _as_keras_input(self.data, shuffle)

    def for_evaluation(self, batch_size, equal=False):
        # Each evaluation sees the current epoch of an `ImageSequence`.
        return _as_keras_input(self.data).data

    def images_of_step(self, step):
        count = self.data.num_batches
        batch = self.data[step if count is None else min(step, count - 1)]
        return self._check(batch), True


class _Array(_Sequence):
    """An array of images, and the arrays of their conditions."""

    def __init__(self, images, *given):
        self.images = images
        self.given = given
        self.count = len(images)

    @property
    def targets(self):
        """What stands beside the images, see `Conditions.to_targets`."""
        return Conditions.to_targets(self.given)

    def _check(self, batch):
        return keras.tree.flatten(batch)  # an array has been checked in full

    def peek(self):
        """Does nothing: an array has already been checked in full."""

    def first(self, count, seed):
        order = np.random.default_rng(seed).permutation(len(self.images))
        # Only the chosen images are read from a memory map.
        chosen = np.sort(order[:count])
        return [np.asarray(array[chosen]) for array in self._arrays()]

    def _arrays(self):
        return self.images, *self.given

    def split(self, fraction):
        count = len(self.images)
        stop = int(count * (1 - fraction))
        if not 0 < stop < count:
            expected = f"such that of {count} images some are on either side"
            refuse("validation_split", expected, fraction)
        return (
            _Array(*(array[:stop] for array in self._arrays())),
            _Array(*(array[stop:] for array in self._arrays())),
        )

    def for_training(
        self, batch_size, seed, batches_seen, shuffle, equal=False
    ):
        self.data = ImageSequence(
            self.images,
            self.targets,
            batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_remainder=shuffle and equal,
        )
        self.seek(batches_seen)
        return super().for_training(batch_size, seed, batches_seen, shuffle)

    def seek(self, batches_seen):
        # It is rounded, because nothing counts the steps that a loss scale left
        # out.
        self.data._start(round(batches_seen / len(self.data)), batch=0)

    def for_evaluation(self, batch_size, equal=False):
        sequence = (_Filled if equal else ImageSequence)(
            self.images, self.targets, batch_size or 32, shuffle=False
        )
        return _as_keras_input(sequence).data


def open_images(x, y, image_format, conditions=NO_CONDITIONS, names=("x", "y")):
    """Opens any images that `fit` and `evaluate` take as a `Source`.

    A ValueError names the argument and what is wrong with it. Datasets are
    checked by `Source.peek` and `Source.first`.

    Args:
        x: integer images, or a dataset: a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a DataLoader or a generator.
        y: conditions beside images, see `Conditions.take_apart`; None beside a
            dataset, which yields them.
        image_format: `ImageFormat` of the model.
        conditions: `Conditions` of the model.
        names: names of the two arguments, for messages.
    """
    sequence = isinstance(x, keras.utils.PyDataset)
    if sequence or (
        # It yields batches, and is not a batch itself.
        hasattr(x, "__iter__")
        and not hasattr(x, "shape")
        and not isinstance(x, (list, tuple, str, bytes, dict, set, frozenset))
    ):
        if y is not None:
            refuse(names[1], "None beside a dataset, which yields it", y)
        kind = _Sequence if sequence else Source
        return kind(x, image_format, conditions)
    x = check_images(x, image_format, names[0], least=1)
    return _Array(x, *conditions.open(y, len(x), names[1]))


def open_validation_data(data, image_format, conditions=NO_CONDITIONS):
    """Opens the `validation_data` of `fit`: see `open_images`."""
    name = "validation_data"
    x, y = data, None
    if isinstance(data, (list, tuple)):
        if len(data) not in (1, 2):
            refuse(name, "images, (images, y) or a dataset", data)
        x, y = (*data, None)[:2]
    return open_images(x, y, image_format, conditions, (name, name))


def open_inputs(x):
    """Opens inputs of a model, arrays or a dataset, without checking them."""
    if hasattr(x, "shape"):
        source = _Array(as_array(x))
        source.data = x  # A tensor stays one for the model.
        return source
    return Source(x)


def _as_keras_input(sequence, shuffle=False):
    """Returns the `Batches` of a `keras.utils.PyDataset`.

    An `ImageSequence` has its own order. On TensorFlow it becomes a
    `tf.data.Dataset` of its current epoch when Keras begins to read. Keras
    would make one too, but with autotuning, whose thread can sleep through the
    end of an epoch: the epoch then waits for it to wake, for up to its own
    duration (docs/performance.md). A single generator leaves nothing to tune. A
    shortened epoch, or several workers, are left to Keras's own reader.
    """
    if not isinstance(sequence, ImageSequence):
        return Batches(sequence, shuffle)
    if (
        keras.backend.backend() != "tensorflow"
        or sequence.batch
        or sequence.workers > 1
    ):
        return Batches(sequence)
    import tensorflow as tf

    def batches():
        epoch = copy.copy(sequence)  # the original may move on meanwhile
        return (epoch[i] for i in range(len(epoch)))

    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec((None, *array.shape[1:]), array.dtype),
        sequence[0],
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = (
        tf.data.Dataset.from_generator(batches, output_signature=signature)
        .apply(tf.data.experimental.assert_cardinality(len(sequence)))
        .prefetch(2)
        .with_options(options)
    )
    next_epoch = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: sequence.on_epoch_begin(),
        on_epoch_end=lambda epoch, logs: sequence.on_epoch_end(),
    )
    return Batches(dataset, callbacks=[next_epoch])


def count_batches(count, batch_size, drop_remainder):
    """Returns the number of batches of an epoch, see `ImageSequence`."""
    whole, rest = divmod(count, batch_size)
    return whole + (rest > 0 and not (whole and drop_remainder))


def padded_batches(count, batch_size):
    """Yields the numbers of the images of each batch, `batch_size` or all.

    The last batch is filled up with the last image, so that a program, which is
    compiled for each shape, is compiled only once.
    """
    size = min(batch_size, count)
    for start in range(0, count, size or 1):
        yield np.minimum(np.arange(start, start + size), count - 1)

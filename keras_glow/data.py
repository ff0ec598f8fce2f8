"""What `Glow.fit` takes: batches in a reproducible order, the first images."""

import copy
import itertools

import keras
import numpy as np
from keras import ops

from keras_glow.checks import (
    check_boolean,
    check_integer,
    check_seed,
    is_dataset,
    refuse,
)


class ImageSequence(keras.utils.PyDataset):
    """Batches of an image array, shuffled, and flipped at random if asked.

    The order and the flips of an epoch are a function of `(seed, epoch)` alone,
    so a run that is resumed at `epoch` sees what it would have seen
    uninterrupted. `Glow.fit` does not shuffle it once more.

    Args:
        images: uint8 array `(count, height, width, channels)`, count >= 1; a
            memory map will do.
        labels: int array `(count,)` or None.
        batch_size: int >= 1; the last batch of an epoch may be smaller.
        flip: bool, whether half of the images, drawn anew each epoch, are
            mirrored left to right.
        seed: int 0..2**32 - 1.
        epoch: int >= 0, the epoch to begin with.
        batch: int >= 0, the batch of that epoch to begin with: its first epoch
            has so many batches less.
        shuffle: bool; without it every epoch has the order of the array.
        **kwargs: `keras.utils.PyDataset` arguments (`workers`, ...).

    Raises:
        ValueError: naming the argument that is not as described. The type and
            the range of the images are looked at by `Glow.fit`.
    """

    def __init__(
        self,
        images,
        labels=None,
        batch_size=32,
        flip=False,
        seed=0,
        epoch=0,
        batch=0,
        shuffle=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if getattr(images, "ndim", 0) != 4 or not len(images):
            expected = "one image or more, (count, height, width, channels)"
            refuse("images", f"an array of {expected}", images)
        if labels is not None:
            labels = np.asarray(labels)
            if labels.shape[:1] != (len(images),):
                refuse(
                    "labels", f"one for each of {len(images)} images", labels
                )
        self.images = images
        self.labels = labels
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.shuffle = check_boolean("shuffle", shuffle)
        self.flip = check_boolean("flip", flip)
        self.seed = check_seed(seed, or_none=False)
        batches = -(-len(images) // self.batch_size)
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
        return -(-len(self.images) // self.batch_size) - self.batch

    def __getitem__(self, index):
        start = (self.batch + index) * self.batch_size
        chosen = self._order[start : start + self.batch_size]
        images = self.images[chosen]  # a copy
        if self.flip:
            flipped = self._flipped[chosen]
            images[flipped] = images[flipped, :, ::-1]
        if self.labels is None:
            return (images,)
        return images, self.labels[chosen]

    def on_epoch_begin(self):
        self._begun = True

    def on_epoch_end(self):
        # Keras also calls it before the first epoch.
        if self._begun:
            self._start(self.epoch + 1, batch=0)


def pipeline(sequence):
    """What Keras is to read an `ImageSequence` from, and the callbacks for it.

    On TensorFlow a `tf.data.Dataset` of the batches of whichever epoch the
    sequence is at when it is begun. Keras would make one too, with autotuning,
    whose thread can sleep through the end of an epoch: the epoch then waits for
    it to wake, up to as long as it lasted (docs/performance.md). One generator
    has nothing to tune. What is left to Keras, which counts the batches of each
    epoch anew and knows of workers, is the sequence as it is.
    """
    if (
        keras.backend.backend() != "tensorflow"
        or sequence.batch
        or sequence.workers > 1
    ):
        return sequence, []
    import tensorflow as tf

    def batches():
        epoch = copy.copy(sequence)  # which may go on to the next meanwhile
        return (epoch[i] for i in range(len(epoch)))

    signature = tuple(
        tf.TensorSpec((None, *array.shape[1:]), array.dtype)
        for array in sequence[0]
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
    return dataset, [next_epoch]


def in_order(x, y, batch_size):
    """What Keras is to evaluate on, and its labels if they are apart.

    Arrays become batches in their order. Of an `ImageSequence` each evaluation
    sees the epoch that it is at; other datasets come back as they are.
    """
    if not is_dataset(x):
        x, y = ImageSequence(x, y, batch_size or 32, shuffle=False), None
    if isinstance(x, ImageSequence):
        x, _ = pipeline(x)
    return x, y


def split(x, y, fraction):
    """Splits arrays in two, as `validation_split` of `keras.Model.fit` does.

    Args:
        x: array.
        y: array of the same length, or None.
        fraction: float in (0, 1), the part that is split off the end.

    Returns:
        Tuple of x and y without it, and of it: `(x, y)`.

    Raises:
        ValueError: if x is a dataset, or one of the parts is empty.
    """
    if is_dataset(x):
        refuse("validation_split", "0 for a dataset", fraction)
    stop = int(len(x) * (1 - fraction))
    if not 0 < stop < len(x):
        expected = f"such that of {len(x)} images some are on either side"
        refuse("validation_split", expected, fraction)
    if y is None:
        return x[:stop], None, (x[stop:], None)
    return x[:stop], y[:stop], (x[stop:], y[stop:])


def first_images(x, count, seed, check=None):
    """The first `count` images of whatever `fit` takes, and that same data.

    Args:
        x: array, tf.data.Dataset, PyDataset, DataLoader or generator.
        count: int; fewer come back if there are fewer.
        seed: int; the images of an array are drawn at random.
        check: function of the images and the labels of a batch that returns
            the images, or raises; None for none.

    Returns:
        Tuple of an array of images and of x. A generator cannot be rewound, so
        what comes back for it is another one that yields the same.
    """
    if hasattr(x, "shape"):
        chosen = np.random.default_rng(seed).permutation(len(x))[:count]
        # Of a memory map the chosen ones alone are read.
        array = x if isinstance(x, np.ndarray) else ops.convert_to_numpy(x)
        return np.asarray(array[np.sort(chosen)]), x
    batches = iter(x)
    taken, images = [], []
    for batch in batches:
        taken.append(batch)
        batch, labels, _ = keras.utils.unpack_x_y_sample_weight(batch)
        images.append(
            check(batch, labels) if check else ops.convert_to_numpy(batch)
        )
        if sum(map(len, images)) >= count:
            break
    if not sum(map(len, images)):
        raise ValueError("`x` is expected to be images. Received: no batch")
    if batches is x:
        # Keras knows a generator by its type: an itertools.chain is refused.
        x = (batch for batch in itertools.chain(taken, batches))
    return np.concatenate(images)[:count], x


def equal_batches(count, batch_size):
    """Numbers of the images of each batch, `batch_size` of them or all.

    The last batch is filled up by the last image: a program that is compiled
    for each shape is compiled once.
    """
    size = min(batch_size, count)
    for start in range(0, count, size or 1):
        yield np.minimum(np.arange(start, start + size), count - 1)

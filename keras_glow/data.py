"""What `Glow.fit` takes: batches in a reproducible order, the first images."""

import itertools

import keras
import numpy as np
from keras import ops


class ImageSequence(keras.utils.PyDataset):
    """Shuffled batches of an image array, flipped at random if asked.

    The order and the flips of an epoch are a function of `(seed, epoch)` alone,
    so a run that is resumed at `epoch` sees what it would have seen
    uninterrupted. `Glow.fit` does not shuffle it once more.

    Args:
        images: uint8 array `(count, height, width, channels)`; a memory map
            will do.
        labels: int array `(count,)` or None.
        batch_size: int; the last batch of an epoch may be smaller.
        flip: bool, whether half of the images, drawn anew each epoch, are
            mirrored left to right.
        seed: int.
        epoch: int, the epoch to begin with.
        batch: int, the batch of that epoch to begin with: its first epoch has
            so many batches less.
        **kwargs: `keras.utils.PyDataset` arguments (`workers`, ...).
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.flip = flip
        self.seed = seed
        self._start(epoch, batch)

    def _start(self, epoch, batch):
        self.epoch = epoch
        self.batch = batch
        self._begun = False
        rng = np.random.default_rng([self.seed, epoch])
        self._order = rng.permutation(len(self.images))
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


def first_images(x, count, seed):
    """The first `count` images of whatever `fit` takes, and that same data.

    Args:
        x: array, tf.data.Dataset, PyDataset, DataLoader or generator.
        count: int; fewer come back if there are fewer.
        seed: int; the images of an array are drawn at random.

    Returns:
        Tuple of an array of images and of x. A generator cannot be rewound, so
        what comes back for it is another one that yields the same.
    """
    if hasattr(x, "shape"):
        chosen = np.random.default_rng(seed).permutation(len(x))[:count]
        return np.asarray(x[np.sort(chosen)]), x
    if isinstance(x, keras.utils.PyDataset):
        batches = (x[i] for i in range(len(x)))
    else:
        batches = iter(x)
    taken, images = [], []
    for batch in batches:
        taken.append(batch)
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        images.append(ops.convert_to_numpy(batch))
        if sum(map(len, images)) >= count:
            break
    if not images:
        raise ValueError("`x` is expected to hold images. Received: no batch")
    if batches is x:
        # Keras knows a generator by its type: an itertools.chain is refused.
        x = (batch for batch in itertools.chain(taken, batches))
    return np.concatenate(images)[:count], x

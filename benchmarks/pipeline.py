"""Does training wait for images? Batches read alone, and the ends of epochs.

    python benchmarks/pipeline.py --epochs 8

Trains the small model of `benchmarks/peers.py` on an array of random images, as
`fit` reads it, and on a `tf.data.Dataset` that tunes itself, as users and Keras
write it. Prints for each, on TensorFlow: the images per second that it gives
when nothing trains; those of training, by the median of the epochs; and the
longest that an epoch lasted after its last step, in seconds.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np
import tensorflow as tf

import keras_glow
from keras_glow.checks import ImageFormat
from keras_glow.data import open_images

BATCH_SIZE = 32


class LastStep(keras.callbacks.Callback):
    """When the last step was done."""

    def on_train_batch_end(self, batch, logs=None):
        self.time = time.perf_counter()


def self_tuning(images):
    """The images, shuffled and in batches, by `tf.data` alone."""
    dataset = tf.data.Dataset.from_tensor_slices((images,))
    dataset = dataset.shuffle(len(images)).batch(BATCH_SIZE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def measure(model, x, batches, count, epochs):
    """Images/s read alone and trained on, and the longest wait in seconds."""
    start = time.perf_counter()
    for _ in batches:
        pass
    alone = count / (time.perf_counter() - start)
    rates, waits, last = [], [], LastStep()
    for _ in range(epochs):
        start = time.perf_counter()
        model.fit(x, batch_size=BATCH_SIZE, verbose=0, callbacks=[last])
        end = time.perf_counter()
        rates.append(count / (end - start))
        waits.append(end - last.time)
    return alone, statistics.median(rates), max(waits)


def as_read_by_fit(images):
    """Returns the batches that `fit` makes of an array."""
    source = open_images(images, None, ImageFormat(images.shape[1:], 8))
    return source.for_training(BATCH_SIZE, 0, 0, shuffle=True).data


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=960, help="images")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (options.count, 32, 32, 3), "uint8")
    model = keras_glow.Glow((32, 32, 3), levels=3, depth=4, width=128)
    model.compile(keras.optimizers.Adam(1e-4))
    model.fit(images[:BATCH_SIZE], verbose=0)
    dataset = self_tuning(images)
    sources = {
        "array": (images, as_read_by_fit(images)),
        "self-tuning dataset": (dataset, dataset),
    }
    print("| | read alone, images/s | trained, images/s | longest wait, s |")
    print("|---" * 4 + "|")
    for name, source in sources.items():
        alone, rate, wait = measure(
            model, *source, options.count, options.epochs
        )
        print(f"| {name} | {alone:.0f} | {rate:.0f} | {wait:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""Which scale function for affine coupling? Bits/dim and stability of each.

    python experiments/scale_functions.py FACES_TRAIN.npz FACES_VALID.npz

Trains the small model (3 levels, depth 4, width 128) with each function, from
the same seed and in the same order of images. Then it prints bits/dim on the
validation images, the worst round-trip error on images of uniform noise, which
are unlike anything it saw (half a grey level is 0.002), and how many of 256
samples at temperature 1.3 are not finite.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_glow
from keras_glow.flow.noise import standard_normal
from keras_glow.layers.affine_coupling import SCALE_FUNCTIONS


def train(images, scale, steps, learning_rate, seed):
    """A model trained for some steps of 32 images."""
    model = keras_glow.Glow(
        images.shape[1:], levels=3, depth=4, width=128, scale=scale, seed=seed
    )
    schedule = keras_glow.schedules.warmup_cosine(learning_rate, steps, 100)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=1e5))
    batches = keras_glow.data.ImageSequence(
        images, batch_size=32, flip=True, seed=seed
    )
    model.fit(
        (batches[i % len(batches)] for i in range(steps)),
        steps_per_epoch=steps,
        verbose=0,
    )
    return model


def measure(model, valid):
    """Bits/dim, round-trip error on noise, samples that are not finite."""
    noise = np.random.default_rng(0).integers(0, 256, (64, *valid.shape[1:]))
    x = model.dequantize(noise.astype("uint8"), seed="center")
    z = model.encoder.predict(x, verbose=0)
    error = np.abs(model.decoder.predict(z, verbose=0) - x).max()
    z = 1.3 * standard_normal((256, model.dimensions), seed=0)
    finite = np.isfinite(model.decoder.predict(z, verbose=0))
    lost = 256 - np.count_nonzero(finite.all(axis=(1, 2, 3)))
    return np.mean(model.bits_per_dim(valid, seed=0)), error, lost


def main():
    """Reads the options and prints a row for each function and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train", help="folder or .npz")
    parser.add_argument("valid", help="folder or .npz")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=8e-3)
    options = parser.parse_args()
    images = keras_glow.images.load_images(options.train, 32)
    valid = keras_glow.images.load_images(options.valid, 32)
    print("scale     seed  bits/dim  error on noise  lost of 256 samples")
    for seed in range(options.seeds):
        for scale in SCALE_FUNCTIONS:
            model = train(
                images, scale, options.steps, options.learning_rate, seed
            )
            bits, error, lost = measure(model, valid)
            print(
                f"{scale:8s}  {seed:4d}  {bits:8.4f}  {error:14.1e}  {lost}",
                flush=True,
            )


if __name__ == "__main__":
    main()

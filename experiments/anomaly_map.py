"""Does the map of the likelihood point at the patch that was replaced?

    python experiments/anomaly_map.py faces32_valid.npz

In each face a square of 8 pixels is replaced: by noise, by the eye of another
face (nowhere near an eye), or by its own mean colour. Each pixel gets a score,
and the table has the area under the ROC curve of the pixels of the square
against all others, 0.5 for guessing, averaged over the faces. The scores:

- map: `-Glow.log_prob_map`, bits/dim of each pixel
- smooth map: its mean over 5x5 pixels
- minus local bits: the smooth map minus the bits/dim of normal values with the
  variance of these 5x5 pixels, as `latent.anomaly_score` subtracts PNG bits
- local variance: that variance; the baseline
- its distance: to either side, from its mean

All but the first are compared with their mean at that place over other faces,
which nothing was done to.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from feature_network import roc_area

import keras_glow

SIDE, WINDOW = 8, 5
EYES = ((9, 6), (9, 17))  # upper left corners in a face of 32x32


def squares(images, kind, rng):
    """Returns images with a square replaced, and bools where it is."""
    images, where = images.copy(), np.zeros(images.shape[:3], bool)
    others = np.roll(images, 1, axis=0)
    for image, other, inside in zip(images, others, where, strict=True):
        while True:
            y, x = rng.integers(images.shape[1] - SIDE + 1, size=2)
            # A square far from both eyes.
            if all(max(abs(y - a), abs(x - b)) >= SIDE for a, b in EYES):
                break
        square = np.s_[y : y + SIDE, x : x + SIDE]
        if kind == "noise":
            new = rng.integers(0, 256, (SIDE, SIDE, 3))
        elif kind == "another's eye":
            a, b = EYES[rng.integers(2)]
            new = other[a : a + SIDE, b : b + SIDE]
        else:
            new = image[square].mean((0, 1))
        image[square], inside[square] = new, True
    return images, where


def smooth(values):
    """Returns means over windows, `(count, height, width, ...)`."""
    half = WINDOW // 2
    for axis in (1, 2):
        pad = [(0, 0)] * values.ndim
        pad[axis] = (half, half)
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(values, pad, "reflect"), WINDOW, axis=axis
        )
        values = windows.mean(-1)
    return values


def local_variance(images):
    """Returns the variance in a window around each pixel, for each channel."""
    x = images.astype("float64")
    return smooth(x**2) - smooth(x) ** 2


def local_bits(variance):
    """Returns the bits/dim of a normal distribution, in bins of width 1."""
    return np.log2(2 * np.pi * np.e * (variance + 1 / 12)).mean(-1) / 2


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faces", help=".npz of faces that it was not fitted to")
    parser.add_argument("--model", default="faces32", help="preset")
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args()
    model = keras_glow.Glow.from_preset(options.model)
    images = np.load(options.faces)["images"]
    clean, faces = np.split(images[: 2 * options.count], 2)

    def scores(images):
        bits = model.image_shape[-1] * np.log(2)
        bits_map = -model.log_prob_map(images, seed=0) / bits
        smooth_map, variance = smooth(bits_map), local_variance(images)
        extra = smooth_map - local_bits(variance)
        return bits_map, smooth_map, extra, variance.sum(-1)

    usual = [score.mean(0) for score in scores(clean)]
    usual[0] = 0.0
    names = "map", "smooth map", "minus local bits", "local variance"
    print(f"| square of | {' | '.join(names)} | its distance |")
    print("|---|" + 5 * "---|")
    for kind in ("noise", "another's eye", "its mean colour"):
        damaged, where = squares(faces, kind, np.random.default_rng(0))
        changes = [
            score - mean
            for score, mean in zip(scores(damaged), usual, strict=True)
        ]
        changes.append(abs(changes[-1]))
        areas = [
            np.mean([roc_area(*p) for p in zip(where, change, strict=True)])
            for change in changes
        ]
        print(f"| {kind} | {' | '.join(f'{area:.3f}' for area in areas)} |")


if __name__ == "__main__":
    main()

"""MNIST: bits/dim of the test digits, samples at several temperatures.

    python experiments/mnist.py mnist.npz --out runs/mnist
    python experiments/mnist.py mnist.npz --out runs/mnist-classes --classes \
        --class-priors top --depth 6 --width 48 --learning-rate 4e-3 \
        --epochs 2 --ema 0.99

The digits are padded with black from 28x28 to 32x32 and stay grey; with
`--border 0 --levels 2` they are not. Bits/dim are those of all pixels, divided
by the 28 x 28 dimensions of a digit: a model pays for the border too, so they
are an upper bound of what it needs for the digit alone. With `--classes` the
model is conditional, and its log p(x) is that of a digit of unknown class: the
mean over the ten of p(x | class).

It can be stopped at any time: the same command goes on where it was. The folder
is that of a run of `keras-glow train`, with `result.json` and `samples.png`
beside it: a row for each temperature or, with `--classes`, for each digit.
"""

import argparse
import json
import math
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from run_settings import add_settings, given_settings

import keras_glow
from keras_glow.cli import run as training

BORDER = 2
DIGIT_DIMENSIONS = 28 * 28
CLASSES = 10
TEMPERATURES = (0.5, 0.7, 1.0)
REPORT = {"depth": 32, "width": 512, "epochs": 10, "learning_rate": 1e-3}
DEFAULTS = {**REPORT, "width": 32, "epochs": 3}
SOME_IMAGES = 1000  # of the test: of the curve, and of the round trip


def load_digits(path, border=BORDER):
    """Padded digits and their classes, of a part each."""
    with np.load(path) as arrays:
        for part in ("train", "test"):
            around = [(0, 0), (border, border), (border, border)]
            images = np.pad(arrays[f"x_{part}"], around)
            yield images[..., None], arrays[f"y_{part}"].astype("int32")


def log_prob(model, images, draws):
    """Log-likelihood of digits of unknown class, `(batch,)` nats."""
    options = {"draws": draws, "seed": 0, "batch_size": 100}
    if model.num_classes is None:
        return model.log_prob(images, **options)
    of_class = [
        model.log_prob(images, labels=np.full(len(images), label), **options)
        for label in range(CLASSES)
    ]
    return np.logaddexp.reduce(of_class) - math.log(CLASSES)


def draw_samples(model, border, path):
    """A row of samples for each temperature, or for each class at 0.7."""
    if model.num_classes is None:
        rows = [model.sample(CLASSES, t, seed=0) for t in TEMPERATURES]
    else:
        rows = [
            model.sample(10, 0.7, seed=label, labels=label)
            for label in range(CLASSES)
        ]
    inside = slice(border, border + 28)
    digits = np.concatenate(rows)[:, inside, inside]
    keras_glow.images.save_grid(digits, path, columns=CLASSES)


def main():
    """Trains, scores the test digits and draws samples."""
    options = parse()
    (images, labels), (test_images, test_labels) = load_digits(
        options.data, options.border
    )
    settings = given_settings(
        options,
        REPORT if options.reproduce else DEFAULTS,
        num_classes=CLASSES if options.classes else None,
    )
    some, some_labels = test_images[:SOME_IMAGES], test_labels[:SOME_IMAGES]
    if not options.classes:
        labels = some_labels = None
    model = training.train(
        options.out,
        images,
        some,
        settings,
        targets=labels,
        validation_targets=some_labels,
    )
    draw_samples(model, options.border, options.out / "samples.png")
    decoded = model.decode(model.encode(some, some_labels), some_labels)
    log_probs = log_prob(model, test_images, options.draws)
    bits = -log_probs / (DIGIT_DIMENSIONS * math.log(2))
    result = {
        "bits_per_dim_of_28x28": float(bits.mean()),
        "standard_error": float(bits.std(ddof=1) / math.sqrt(len(bits))),
        "images": len(bits),
        "draws": options.draws,
        "pixels_lost_in_the_round_trip": int(np.sum(decoded != some)),
        "of_pixels": some.size,
        "parameters": model.count_params(),
    }
    text = json.dumps(result, indent=2)
    (options.out / "result.json").write_text(text + "\n")
    print(text)


def parse():
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("data", help="mnist.npz, as keras.datasets.mnist has it")
    add("--out", required=True, type=pathlib.Path)
    add("--border", type=int, default=BORDER, help="of black pixels")
    add("--draws", type=int, default=1, help="of noise for each test digit")
    add("--classes", action="store_true", help="condition on the digit")
    add("--reproduce", choices=["report"], help="with its width and epochs")
    add_settings(parser, "flip")
    return parser.parse_args()


if __name__ == "__main__":
    main()

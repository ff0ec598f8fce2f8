"""Whether a class-conditional model draws the digits that it is asked for.

    python experiments/digit_accuracy.py mnist.npz runs/a/model.keras mnist

A small convolutional classifier is trained on the digits of MNIST; then it
reads digits that each model draws, as many of every class, at several
temperatures. A model is a `.keras` file or the name of a preset. Printed is a
table in Markdown: the share of digits that are read as the label that they
were drawn with, with its standard error, and the classifier's own accuracy on
the test digits, the most that can be expected.
"""

import argparse
import math
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from mnist import CLASSES, TEMPERATURES, load_digits

import keras_glow


def train_classifier(images, labels, epochs, seed):
    """A convolutional classifier of padded digits, trained on them."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input(images.shape[1:]),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(CLASSES),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=2)
    return model


def accuracy(classifier, images, labels):
    """The share that is read right, and its standard error, as text."""
    guesses = classifier.predict(images, verbose=0).argmax(axis=1)
    share = np.mean(guesses == labels)
    error = math.sqrt(share * (1 - share) / len(labels))
    return f"{share:.3f} +- {error:.3f}"


def main():
    """Trains the classifier and prints a row for each model."""
    options = parse()
    (images, labels), (test_images, test_labels) = load_digits(options.data)
    classifier = train_classifier(images, labels, options.epochs, options.seed)
    columns = [f"T = {t}" for t in TEMPERATURES]
    print("| model | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    drawn = np.arange(options.count) % CLASSES
    for name in options.models:
        model = keras_glow.Glow.from_preset(name)
        cells = []
        for temperature in TEMPERATURES:
            digits = model.sample(
                options.count, temperature, seed=options.seed, labels=drawn
            )
            cells.append(accuracy(classifier, digits, drawn))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    own = accuracy(classifier, test_images, test_labels)
    print(f"\nTest digits: {own}")


def parse():
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("data", help="mnist.npz, as keras.datasets.mnist has it")
    add("models", nargs="+", help="`.keras` files or presets")
    add("--count", type=int, default=2000, help="digits of a model to read")
    add("--epochs", type=int, default=3, help="of the classifier")
    add("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()

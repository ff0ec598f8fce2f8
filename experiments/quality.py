"""How good is a model? Bits/dim, and the distance of its samples to faces.

    python experiments/quality.py run/model.keras faces32_valid.npz \
        --train faces32_train.npz

Prints tables in Markdown, a row for each of any number of models: bits/dim with
its standard error over the images, and the Fréchet and kernel distance between
the features of samples and of the validation images, for each temperature. The
samples of all models and temperatures come from the same seed.

With `--train` it prints the distances of real images too: of as many training
images as there are samples, which is the floor for the numbers above, and of
half of all, which shows how much of the Fréchet distance is mere bias of a
small sample. The features were trained on the training images, so their
distances are, if anything, too large.

The features are those of `experiments/feature_network.py`: the distances
compare with others by the same file only.
"""

import argparse
import math
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from feature_network import WEIGHTS, load_features

from keras_glow import Glow
from keras_glow.analysis.distances import frechet_distance, kernel_distance
from keras_glow.images import TEST_KEYS, load_images

TEMPERATURES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# The kernel distance is printed times this, as is usual.
KERNEL_UNIT = 1000


def bits_per_dim(model, images, draws, seed):
    """Bits/dim and its standard error over the images, as text."""
    values = model.bits_per_dim(images, draws=draws, seed=seed)
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    return f"{np.mean(values):.4f} ± {error:.4f}"


def distances(real, generated):
    """Both distances between features, as text."""
    frechet = frechet_distance(real, generated)
    kernel, error = kernel_distance(real, generated)
    return (
        f"{frechet:.2f}",
        f"{KERNEL_UNIT * kernel:.1f} ± {KERNEL_UNIT * error:.1f}",
    )


def distances_of_samples(model, real, features, count, temperatures, seed):
    """Both distances for each temperature: a tuple of two rows of text."""
    cells = []
    for temperature in temperatures:
        try:
            samples = model.sample(count, temperature, seed)
        except ValueError as error:
            # One broken sample should not cost the rest of the table.
            print(f"temperature {temperature}: {error}", file=sys.stderr)
            cells.append(("not finite", "not finite"))
            continue
        cells.append(distances(real, features(samples)))
    return tuple(zip(*cells, strict=True))


def distances_of_faces(train, real, features, count, seed):
    """A row of two distances for `count` training images, and for half."""
    order = np.random.default_rng(seed).permutation(len(train))
    for number in (count, len(train) // 2):
        chosen = features(train[order[:number]])
        yield f"{len(chosen):,} training images", *distances(real, chosen)


def print_table(title, head, rows):
    """A table in Markdown."""
    print(f"\n{title}\n")
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.stdout.flush()


def names(paths):
    """What to call each file: its name, and its folder's where it tells none.

    `keras-glow train` calls the model of every run `model.keras`.
    """
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems) and "model" not in stems:
        return stems
    return [f"{path.resolve().parent.name}/{path.stem}" for path in paths]


def main():
    """Reads the options, measures each model and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("models", nargs="+", type=pathlib.Path, help=".keras files, presets")
    add("valid", help="folder or .npz of images that no model has seen")
    add("--train", help="folder or .npz of other real images, for the floor")
    add("--features", type=pathlib.Path, default=WEIGHTS)
    add("--draws", type=int, default=0, help="also bits/dim of so many draws")
    add("--count", type=int, help="samples; as many as images if left out")
    add("--temperatures", type=float, nargs="+", default=TEMPERATURES)
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    models = [Glow.from_preset(str(path)) for path in options.models]
    shapes = {model.image_shape for model in models}
    if len(shapes) > 1:
        parser.error(f"the models are expected to share a shape, got {shapes}")
    size = models[0].image_shape[0]
    valid = load_images(options.valid, size, keys=TEST_KEYS)
    count = options.count or len(valid)
    features = load_features(options.features)
    real = features(valid)

    draws = [1] + [options.draws] * (options.draws > 1)
    likelihoods, frechet, kernel = [], [], []
    for name, model in zip(names(options.models), models, strict=True):
        print(f"{name} ...", file=sys.stderr)
        likelihoods.append(
            [
                name,
                f"{model.count_params():,}",
                *(bits_per_dim(model, valid, n, options.seed) for n in draws),
            ]
        )
        rows = distances_of_samples(
            model, real, features, count, options.temperatures, options.seed
        )
        frechet.append([name, *rows[0]])
        kernel.append([name, *rows[1]])
    print_table(
        f"Bits/dim on {len(valid):,} images, ± standard error",
        ["model", "parameters", *(f"{n} draw{'s' * (n > 1)}" for n in draws)],
        likelihoods,
    )
    head = ["model", *(f"T = {t:g}" for t in options.temperatures)]
    against = f"of {count:,} samples to {len(valid):,} images"
    print_table(f"Fréchet distance {against}", head, frechet)
    print_table(
        f"Kernel distance x {KERNEL_UNIT} {against}, ± standard error",
        head,
        kernel,
    )
    if options.train:
        train = load_images(options.train, size)
        print_table(
            f"Distances of real images to the {len(valid):,} images",
            ["real images", "Fréchet", f"kernel x {KERNEL_UNIT}"],
            distances_of_faces(train, real, features, count, options.seed),
        )


if __name__ == "__main__":
    main()

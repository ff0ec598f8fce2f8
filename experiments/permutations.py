"""Which permutation? Reverse, shuffle and the invertible 1x1 convolution.

    python experiments/permutations.py faces32_train.npz \
        --validation faces32_valid.npz --out runs/permutations --seeds 3

Trains each permutation with each coupling from the same seeds, on the same
images in the same order, for the same number of epochs. It can be stopped at
any time: the same command goes on from the last finished epoch. It leaves in
the folder `table.md` (bits/dim on the validation images: the mean and the
standard deviation over the seeds), `curves.png` and `samples.png` (a row for
each permutation, of the first coupling and seed).
"""

import argparse
import csv
import itertools
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import matplotlib.ticker
import numpy as np
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from run_settings import add_settings, given_settings

import keras_glow
from keras_glow.cli import run as training

PERMUTATIONS = ("reverse", "shuffle", "invertible_conv")
COUPLINGS = ("affine", "additive")
REPORT = {"depth": 10, "width": 512, "epochs": 90, "learning_rate": 1e-3}
DEFAULTS = {**REPORT, "width": 32, "epochs": 4, "learning_rate": 4e-3}


class Rate(keras.callbacks.Callback):
    """Images per second in training, by the median time of an epoch.

    A callback that looked at each step would make a GPU wait for it.
    """

    def __init__(self, batch_size):
        super().__init__()
        self.batch_size = batch_size
        self.rates = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_test_begin(self, logs=None):
        # Validation comes last in an epoch, and its time does not count.
        images = self.batch_size * self.params["steps"]
        self.rates.append(images / (time.perf_counter() - self.start))

    def images_per_second(self):
        # The first epoch compiles.
        rates = self.rates[1:] or self.rates
        return float(np.median(rates)) if rates else None


def run(folder, settings, images, validation):
    """Trains one model, or goes on with it; its result as a dict."""
    keras.utils.clear_session(free_memory=True)
    rate = Rate(settings.batch_size)
    model = training.train(
        folder, images, validation, settings, callbacks=[rate]
    )
    bits = model.bits_per_dim(validation, seed=0)
    samples = model.sample(12, temperature=0.7, seed=0)
    keras_glow.images.save_grid(samples, folder / "samples.png", columns=12)
    result = {
        "bits_per_dim": float(bits.mean()),
        "images_per_second": rate.images_per_second(),
        "parameters": model.count_params(),
    }
    return result


def main():
    """Trains what is not trained yet, then writes the table and pictures."""
    options = parse()
    images = keras_glow.images.load_images(options.train, 32)
    images = images[: options.images]
    validation = keras_glow.images.load_images(options.validation, 32)
    results = {}
    combinations = itertools.product(
        range(options.seeds), options.couplings, options.permutations
    )
    for seed, coupling, permutation in combinations:
        folder = options.out / f"{permutation}-{coupling}-{seed}"
        file = folder / "result.json"
        if not file.exists():
            print(folder, flush=True)
            settings = given_settings(
                options,
                REPORT if options.reproduce else DEFAULTS,
                permutation=permutation,
                coupling=coupling,
                seed=seed,
                flip=True,
            )
            result = run(folder, settings, images, validation)
            file.write_text(json.dumps(result, indent=2) + "\n")
        results[permutation, coupling, seed] = json.loads(file.read_text())
        write_table(options.out / "table.md", results)
        draw_curves(options.out, results)
    rows = [
        options.out / f"{name}-{options.couplings[0]}-0" / "samples.png"
        for name in options.permutations
    ]
    stack_pictures(rows, options.out / "samples.png")
    print((options.out / "table.md").read_text())


def parse():
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("train", help="folder or .npz")
    add("--validation", required=True, help="folder or .npz")
    add("--out", required=True, type=pathlib.Path)
    add("--images", type=int, help="train on the first so many only")
    add("--seeds", type=int, default=1)
    add(
        "--permutations",
        nargs="+",
        default=PERMUTATIONS,
        choices=PERMUTATIONS,
    )
    add("--couplings", nargs="+", default=COUPLINGS, choices=COUPLINGS)
    add("--reproduce", choices=["report"], help="with its width and epochs")
    add_settings(parser, "permutation", "coupling", "seed", "flip")
    return parser.parse_args()


def write_table(path, results):
    """bits/dim of each kind: mean and standard deviation over the seeds."""
    lines = [
        "| permutation | coupling | bits/dim | spread | seeds | parameters "
        "| images/s |",
        "|---|---|---|---|---|---|---|",
    ]
    kinds = sorted({key[:2] for key in results}, key=lambda kind: kind[::-1])
    for kind in kinds:
        own = [value for key, value in results.items() if key[:2] == kind]
        bits = [value["bits_per_dim"] for value in own]
        spread = f"{np.std(bits, ddof=1):.4f}" if len(bits) > 1 else "-"
        rates = [value["images_per_second"] for value in own]
        rates = [rate for rate in rates if rate]
        rate = f"{np.median(rates):.0f}" if rates else "-"
        lines.append(
            f"| {kind[0]} | {kind[1]} | {np.mean(bits):.4f} | {spread} | "
            f"{len(bits)} | {own[0]['parameters']:,} | {rate} |"
        )
    path.write_text("\n".join(lines) + "\n")


def draw_curves(folder, results):
    """bits/dim on the validation images over the epochs, a line a kind."""
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for coupling, style in zip(COUPLINGS, ("-", "--"), strict=True):
        for number, permutation in enumerate(PERMUTATIONS):
            histories = [
                read_history(folder / "-".join(map(str, key)) / "history.csv")
                for key in results
                if key[:2] == (permutation, coupling)
            ]
            if not histories:
                continue
            mean = np.mean(histories, axis=0)
            epochs = np.arange(1, len(mean) + 1)
            axes.plot(
                epochs,
                mean,
                style,
                color=f"C{number}",
                label=f"{permutation}, {coupling}",
            )
            low, high = np.min(histories, axis=0), np.max(histories, axis=0)
            axes.fill_between(epochs, low, high, color=f"C{number}", alpha=0.15)
    axes.set(xlabel="epoch", ylabel="bits/dim, validation")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center")
    figure.savefig(folder / "curves.png", dpi=120)
    plt.close(figure)


def read_history(path):
    """bits/dim on the validation images after each epoch."""
    with open(path, newline="") as file:
        return [float(row["val_bits_per_dim"]) for row in csv.DictReader(file)]


def stack_pictures(paths, out):
    """One picture of several that are equally wide, each pixel twice as big."""
    arrays = [np.asarray(Image.open(path)) for path in paths]
    large = np.concatenate(arrays).repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(large).save(out)


if __name__ == "__main__":
    main()

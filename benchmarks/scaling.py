"""Time and peak memory of training, by depth, width, image size and batch.

    python benchmarks/scaling.py --depths 4 8 16 32 64 --plot docs/depth.png \
        --memory store remat reversible --sizes 64 --levels 1 --batch-sizes 16
    python benchmarks/scaling.py --widths 32 64 128 256 512

A process for each combination of the lists given. It trains an untrained model
on random images: one `fit` of a few steps, which compiles and is timed from the
imports on, and one more, which is timed as a whole. Printed are images per
second, milliseconds of processor time an image, the seconds until the end of
the first step, and the peak of resident memory, or of the GPU's if there is
one, less that after the imports, in MiB. `--plot` draws time and memory against
depth.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time

from peak import peak

MEMORY = ("store", "remat", "reversible")
AXES = ("depth", "width", "size", "batch_size")
COLUMNS = ("images/s", "core-ms/image", "first step, s", "peak, MiB")


def measure(options):
    """The row of one combination: a dict by column."""
    start = time.perf_counter()
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    import keras
    import numpy as np

    import keras_glow

    after_import = peak()
    size, batch_size = options.size, options.batch_size
    model = keras_glow.Glow(
        (size, size, 3),
        levels=options.levels,
        depth=options.depth,
        width=options.width,
        network_dtype=options.network_dtype,
        memory=options.memory,
    )
    optimizer = keras.optimizers.get(options.optimizer)
    optimizer.learning_rate = 1e-6
    model.compile(optimizer, jit_compile=options.jit or "auto")
    count = batch_size * options.steps
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3))
    images = images.astype("uint8")
    model.fit(images[:batch_size], batch_size=batch_size, verbose=0)
    started = time.perf_counter() - start
    before, core = time.perf_counter(), time.process_time()
    model.fit(images, batch_size=batch_size, verbose=0)
    core = time.process_time() - core
    return {
        "images/s": count / (time.perf_counter() - before),
        "core-ms/image": 1000 * core / count,
        "first step, s": started,
        "peak, MiB": peak() - after_import,
    }


def rows(options):
    """Measures and prints every combination, and yields it."""
    for memory in options.memory:
        for values in itertools.product(
            options.depths, options.widths, options.sizes, options.batch_sizes
        ):
            own = dict(zip(AXES, values, strict=True), memory=memory)
            command = [sys.executable, __file__, "--child", json.dumps(own)]
            run = subprocess.run(
                [*command, *sys.argv[1:]],
                env={**os.environ, "KERAS_BACKEND": options.backend},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            name = " | ".join(map(str, (memory, *values)))
            if run.returncode:
                print(f"| {name} | failed |", flush=True)
                continue
            found = json.loads(run.stdout.splitlines()[-1])
            cells = [f"{found[column]:.1f}" for column in COLUMNS]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
            yield own | found


def plot(found, path):
    """Draws time and memory against depth, a curve for each `memory`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for memory, group in itertools.groupby(found, lambda row: row["memory"]):
        group = list(group)
        depths = [row["depth"] for row in group]
        for column, axis in zip(
            ("core-ms/image", "peak, MiB"), axes, strict=True
        ):
            values = [row[column] for row in group]
            axis.plot(depths, values, marker="o", label=f'memory="{memory}"')
    axes[0].set(xlabel="depth", ylabel="processor time, ms per image")
    axes[1].set(xlabel="depth", ylabel="peak memory, MiB")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.set_xticks(depths)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def main():
    """Prints the table, and draws the plot if there is to be one."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--backend", default="tensorflow")
    add("--depths", type=int, nargs="+", default=[10])
    add("--widths", type=int, nargs="+", default=[128])
    add("--sizes", type=int, nargs="+", default=[32])
    add("--batch-sizes", type=int, nargs="+", default=[32])
    add("--memory", nargs="+", default=["store"], choices=MEMORY)
    add("--levels", type=int, default=3)
    add("--steps", type=int, default=4, help="that are timed")
    add("--optimizer", default="adam")
    add("--network-dtype")
    add("--jit", action="store_true", help="XLA on TensorFlow")
    add("--plot", help="a PNG file to draw time and memory by depth into")
    add("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        vars(options).update(options.child)
        print(json.dumps(measure(options)))
        return
    print("| memory | " + " | ".join((*AXES, *COLUMNS)) + " |")
    print("|---" * (1 + len(AXES) + len(COLUMNS)) + "|")
    found = list(rows(options))
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    main()

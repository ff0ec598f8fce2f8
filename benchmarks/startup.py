"""How long it takes until something happens, for models of several depths.

    python benchmarks/startup.py --depths 4 10 32

Prints, in seconds of wall time, a row for each depth, measured in a process of
its own: the import, building and compiling a model of 32x32 colour images, its
first step of training (ActNorm's initialisation and all compiling included),
the first `encode` and the first `sample` after it, and the images per second
of an epoch of training after that, by its wall time.
"""

import argparse
import json
import os
import subprocess
import sys
import time

COLUMNS = ("import", "build", "first step", "encode", "sample", "images/s")
BATCH_SIZE = 32
STEPS = 30


def measure(depth, width):
    """The row of one depth."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    times = [time.perf_counter()]

    def lap():
        times.append(time.perf_counter())

    import keras
    import numpy as np

    import keras_glow

    lap()
    model = keras_glow.Glow((32, 32, 3), levels=3, depth=depth, width=width)
    model.compile(keras.optimizers.Adam(1e-4))
    lap()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH_SIZE * STEPS, 32, 32, 3), "uint8")
    model.fit(images[:BATCH_SIZE], verbose=0, batch_size=BATCH_SIZE)
    lap()
    model.encode(images[:BATCH_SIZE])
    lap()
    model.sample(BATCH_SIZE, seed=0)
    lap()
    model.fit(images, verbose=0, batch_size=BATCH_SIZE)
    rate = len(images) / (time.perf_counter() - times[-1])
    return [*np.diff(times).tolist(), rate]


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--depths", type=int, nargs="+", default=[4, 10, 32])
    add("--width", type=int, default=128)
    add("--backend", default="tensorflow")
    add("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.width)))
        return
    print("| depth | " + " | ".join(COLUMNS) + " |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for depth in options.depths:
        command = [sys.executable, __file__, f"--width={options.width}"]
        output = subprocess.run(
            [*command, f"--child={depth}"],
            env={**os.environ, "KERAS_BACKEND": options.backend},
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout
        row = json.loads(output.splitlines()[-1])
        cells = [f"{value:.1f}" for value in row[:-1]] + [f"{row[-1]:.0f}"]
        print(f"| {depth} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""How long it takes until something happens, for models of several depths.

    python benchmarks/startup.py --depths 4 10 32
    python benchmarks/startup.py --depths 10 --against CHECKOUT --rounds 5

Prints, in seconds of wall time, a row for each depth, measured in a process of
its own: the import, building and compiling a model of 32x32 colour images, its
first step of training (ActNorm's initialisation and all compiling included),
the first `log_prob` and the first `sample` after it, and the images per second
of an epoch of training, of `log_prob` and of `sample` after that, by their wall
time.

`--against` names a checkout of another version. The two take turns, `--rounds`
times; a row more gives the median over the rounds of this version's figure over
the other's, with the smallest and the largest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

TIMES = ("import", "build", "first step", "first log_prob", "first sample")
RATES = ("trained/s", "scored/s", "sampled/s")
HERE = Path(__file__).resolve().parents[1]
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
    model.log_prob(images[:BATCH_SIZE])
    lap()
    model.sample(BATCH_SIZE, seed=0)
    lap()
    model.fit(images, verbose=0, batch_size=BATCH_SIZE)
    lap()
    model.log_prob(images)
    lap()
    model.sample(len(images), seed=0)
    lap()
    seconds = np.diff(times)
    first = len(TIMES)
    return [*seconds[:first], *len(images) / seconds[first:]]


def run(checkout, depth, options):
    """The row of one depth, measured by the package of a checkout."""
    output = subprocess.run(
        [
            sys.executable,
            __file__,
            f"--width={options.width}",
            f"--child={depth}",
        ],
        env={
            **os.environ,
            "KERAS_BACKEND": options.backend,
            "PYTHONPATH": str(checkout),
        },
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ).stdout
    return json.loads(output.splitlines()[-1])


def print_row(*cells):
    """Prints a row of the table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def compare(depth, options):
    """Prints the rows of both versions, taking turns, and their ratios."""
    ratios = []
    for turn in range(options.rounds):
        rows = {}
        for name in ("this", "other")[:: 1 if turn % 2 else -1]:
            checkout = HERE if name == "this" else options.against
            rows[name] = run(checkout, depth, options)
            print_row(f"{depth}, {name}", *(f"{x:.2f}" for x in rows[name]))
        pairs = zip(rows["this"], rows["other"], strict=True)
        ratios.append([this / other for this, other in pairs])
    cells = [
        f"{statistics.median(column):.2f} ({min(column):.2f}-{max(column):.2f})"
        for column in zip(*ratios, strict=True)
    ]
    print_row(f"{depth}, ratio", *cells)


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--depths", type=int, nargs="+", default=[4, 10, 32])
    add("--width", type=int, default=128)
    add("--backend", default="tensorflow")
    add("--against", type=Path, help="a checkout of another version")
    add("--rounds", type=int, default=5)
    add("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child, options.width)))
        return
    print_row("depth", *TIMES, *RATES)
    print_row(*["---"] * (1 + len(TIMES) + len(RATES)))
    for depth in options.depths:
        if options.against:
            compare(depth, options)
        else:
            row = run(HERE, depth, options)
            print_row(depth, *(f"{value:.1f}" for value in row))


if __name__ == "__main__":
    main()

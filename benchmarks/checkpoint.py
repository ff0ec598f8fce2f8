"""What a checkpoint costs, beside Keras's plain `save_weights`.

    python benchmarks/checkpoint.py [--width 128] [--depth 4] [--count 10]

Both write the weights, the optimiser and the averages. A checkpoint also looks
for values that are not finite, waits for the disk and keeps the file before.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np

import keras_glow
from keras_glow.training.checkpoint import save_checkpoint


def median_seconds(save, count):
    """The median over so many calls, after one that is not counted."""
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        save()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def main():
    """Prints a line for each way to save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument(
        "--folder", help="on the disk to measure; default: a temporary one"
    )
    parser.add_argument(
        "--images", type=int, default=2048, help="in the epoch that is timed"
    )
    arguments = parser.parse_args()
    size = arguments.size
    model = keras_glow.Glow(
        (size, size, 3),
        levels=arguments.levels,
        depth=arguments.depth,
        width=arguments.width,
    )
    model.compile(keras.optimizers.Adam(1e-4, use_ema=True))
    shape = (arguments.images, size, size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, "uint8")
    model.fit(images[:64], verbose=0)  # traces the step
    start = time.perf_counter()
    model.fit(images, verbose=0)
    epoch = time.perf_counter() - start
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        folder = pathlib.Path(folder)
        weights = folder / "plain.weights.h5"
        checkpoint = folder / "checkpoint.keras"
        plain = median_seconds(
            lambda: model.save_weights(weights, overwrite=True),
            arguments.count,
        )
        whole = median_seconds(
            lambda: save_checkpoint(model, checkpoint, epoch=1),
            arguments.count,
        )
        megabytes = checkpoint.stat().st_size / 1e6
    print(f"{model.count_params():,} parameters, a file of {megabytes:.1f} MB")
    print(f"save_weights:    {plain * 1e3:7.1f} ms")
    print(
        f"save_checkpoint: {whole * 1e3:7.1f} ms, {whole / plain:.2f} times "
        f"as long, {whole / epoch:.1%} of an epoch of {arguments.images} images"
    )


if __name__ == "__main__":
    main()

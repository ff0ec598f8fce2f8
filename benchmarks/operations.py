"""Which operations the steps of training spend their time in, on TensorFlow.

    python benchmarks/operations.py --depth 10 --width 512

Trains on random images of 32x32, one thread alone, under TensorFlow's profiler,
and prints for each kind of operation how often it runs in a step, its
milliseconds of a step and its share of all operations. Those under 1 % are one
row.
"""

import argparse
import collections
import os
import pathlib
import re
import tempfile

os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import keras_glow

OPERATION = re.compile(r"[\w./\-]+:(\w+)")  # "name:Kind" of an event


def profile(model, images, batch_size):
    """Trains for an epoch; the events of the profiler, an `XSpace`."""
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        model.fit(images, batch_size=batch_size, verbose=0)
        tf.profiler.experimental.stop()
        (file,) = pathlib.Path(folder).rglob("*.xplane.pb")
        return xplane_pb2.XSpace.FromString(file.read_bytes())


def operations(space):
    """Counter of seconds, and of how often, by kind of operation.

    What an operation calls, such as a function its body, is not its own time.
    """
    seconds, count = collections.Counter(), collections.Counter()
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        for line in plane.lines:
            inside = []
            events = sorted(
                line.events, key=lambda e: (e.offset_ps, -e.duration_ps)
            )
            for event in events:
                match = OPERATION.fullmatch(names[event.metadata_id])
                if not match:
                    continue
                while inside and inside[-1][0] <= event.offset_ps:
                    inside.pop()
                duration = event.duration_ps / 1e12
                if inside:
                    seconds[inside[-1][1]] -= duration
                seconds[match[1]] += duration
                count[match[1]] += 1
                inside.append((event.offset_ps + event.duration_ps, match[1]))
    return seconds, count


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--depth", type=int, default=10)
    add("--width", type=int, default=512)
    add("--batch-size", type=int, default=32)
    add("--steps", type=int, default=4)
    options = parser.parse_args()
    model = keras_glow.Glow(
        (32, 32, 3), levels=3, depth=options.depth, width=options.width
    )
    model.compile(keras.optimizers.Adam(1e-4))
    count = options.batch_size * options.steps
    images = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3))
    images = images.astype("uint8")
    model.fit(images, batch_size=options.batch_size, verbose=0)
    seconds, count = operations(profile(model, images, options.batch_size))
    total = seconds.total()
    print("| operation | a step | ms a step | share |\n|---|---|---|---|")
    rest = total
    for kind, own in seconds.most_common():
        if own < total / 100:
            break
        rest -= own
        _print_row(kind, count[kind] / options.steps, own, total, options.steps)
    _print_row("all others", "", rest, total, options.steps)


def _print_row(kind, often, seconds, total, steps):
    often = f"{often:.0f}" if often else ""
    milliseconds = 1000 * seconds / steps
    print(f"| {kind} | {often} | {milliseconds:.0f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    main()

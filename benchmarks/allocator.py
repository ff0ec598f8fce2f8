"""What it gains to keep freed memory: `keep_freed_memory`, on and off.

    python benchmarks/allocator.py --depths 10 32 --width 32

Trains a model of 32x32 colour images of each depth in a process of its own, in
turn with the memory that is freed kept, as `Glow` has it, and handed back, as
the C library has it by itself. Prints the medians over the rounds: images/s by
the median time of a step, the pages that the kernel had to clear for each
step, the peak of memory in MiB, and the median ratio of the rates of a round.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

BATCH_SIZE = 32
# The environment has a setting, of the value it has anyway: nothing is kept.
HANDED_BACK = {"MALLOC_TOP_PAD_": "131072"}


def measure(options):
    """Images/s, page faults of a step and MiB of training in this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    import keras_glow

    class Steps(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.seconds, self.faults = [], []

        def on_train_batch_end(self, batch, logs=None):
            self.seconds.append(time.perf_counter())
            usage = resource.getrusage(resource.RUSAGE_SELF)
            self.faults.append(usage.ru_minflt)

    rng = np.random.default_rng(0)
    shape = (BATCH_SIZE * options.steps, 32, 32, 3)
    images = rng.integers(0, 256, shape, "uint8")
    model = keras_glow.Glow(
        (32, 32, 3), levels=3, depth=options.child, width=options.width
    )
    model.compile(keras.optimizers.Adam(1e-3))
    steps = Steps()
    model.fit(images, batch_size=BATCH_SIZE, verbose=0, callbacks=[steps])
    warm = options.steps // 3
    return (
        BATCH_SIZE / float(np.median(np.diff(steps.seconds[warm:]))),
        float(np.median(np.diff(steps.faults[warm:]))),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def run(options, depth, variables):
    """The figures of a process of its own."""
    command = [
        *(sys.executable, __file__, f"--width={options.width}"),
        *(f"--steps={options.steps}", f"--child={depth}"),
    ]
    output = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **variables},
    ).stdout
    return json.loads(output.splitlines()[-1])


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--depths", type=int, nargs="+", default=[4, 10, 32])
    add("--width", type=int, default=32)
    add("--steps", type=int, default=30)
    add("--rounds", type=int, default=3)
    add("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    columns = ("images/s", "page faults a step", "peak MiB")
    print("| depth | " + " | ".join(f"{c}: kept, not" for c in columns), end="")
    print(" | ratio of images/s |\n" + "|---" * 5 + "|")
    for depth in options.depths:
        kept, handed_back = [], []
        for _ in range(options.rounds):
            kept.append(run(options, depth, {}))
            handed_back.append(run(options, depth, HANDED_BACK))
        cells = [
            ", ".join(f"{statistics.median(v):,.0f}" for v in values)
            for values in zip(
                zip(*kept, strict=True),
                zip(*handed_back, strict=True),
                strict=True,
            )
        ]
        ratios = sorted(
            a[0] / b[0] for a, b in zip(kept, handed_back, strict=True)
        )
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        ratio = f"{statistics.median(ratios):.2f} ({spread})"
        print(f"| {depth} | " + " | ".join([*cells, ratio]) + " |", flush=True)


if __name__ == "__main__":
    main()

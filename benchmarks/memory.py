"""Peak memory of training by depth, for each `memory` of a Glow.

    python benchmarks/memory.py [--backend jax] [--depths 8 16 32 64]

Each figure is a process of its own that takes a few steps of `fit`: the peak of
its resident memory less that after the imports, in MiB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

MEMORY = ("store", "remat", "reversible")


def measure(arguments):
    """Trains in this process; a dict of MiB and seconds."""
    import keras
    import numpy as np

    import keras_glow

    after_import = peak()
    start = time.perf_counter()
    size = arguments.size
    model = keras_glow.Glow(
        (size, size, 3),
        levels=arguments.levels,
        depth=arguments.depths[0],
        width=arguments.width,
        network_dtype=arguments.network_dtype,
        memory=arguments.memory[0],
    )
    built = peak()
    optimizer = keras.optimizers.get(arguments.optimizer)
    optimizer.learning_rate = 1e-6
    model.compile(optimizer, jit_compile=arguments.jit or "auto")
    count = arguments.batch_size * arguments.steps
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3))
    history = model.fit(
        images.astype("uint8"), batch_size=arguments.batch_size, verbose=0
    )
    return {
        "growth": peak() - after_import,
        "built": built - after_import,
        "seconds": time.perf_counter() - start,
        "loss": history.history["loss"][0],
    }


def peak():
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    """Starts a process for each figure and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="tensorflow")
    parser.add_argument(
        "--depths", type=int, nargs="+", default=[8, 16, 32, 64]
    )
    parser.add_argument("--memory", nargs="+", default=MEMORY, choices=MEMORY)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--levels", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--optimizer", default="adam")
    parser.add_argument("--network-dtype")
    parser.add_argument("--jit", action="store_true", help="XLA on TensorFlow")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return
    print(f"# {' '.join(sys.argv)}", flush=True)
    for memory in arguments.memory:
        for depth in arguments.depths:
            own = ["--memory", memory, "--depths", str(depth), "--child"]
            result = subprocess.run(
                [sys.executable, *sys.argv, *own],
                env={**os.environ, "KERAS_BACKEND": arguments.backend},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            if result.returncode:
                print(f"{memory:10} depth {depth:2}: failed", flush=True)
                continue
            found = json.loads(result.stdout.splitlines()[-1])
            print(
                f"{memory:10} depth {depth:2}: {found['growth']:6.0f} MiB "
                f"({found['built']:.0f} once built), "
                f"{found['seconds']:4.0f} s, loss {found['loss']:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

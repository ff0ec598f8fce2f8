"""keras_glow beside other Glows: speed, start-up, memory.

    make bench

or, in an environment that has them all (see the Makefile),

    python benchmarks/peers.py --configurations report small deep

Each contender works in a process of its own. They start one after the other,
which is timed from the imports to the end of the first step of training; then
they take turns, one at work while the others wait, a chunk of training, of
log-likelihoods and of samples each, in several rounds. What is printed is the
median over the rounds of images per second, and under each table its ratio to
the best of the others that compute the same model: FrEIA's rotation is fixed,
so it stands in the table and not in the ratio. The rate of large matrix
products is measured in the same rounds: it tells what the machine could do.

Where there is a GPU, all work on it, the ports at their own settings of
precision. `--backend` is that of keras_glow, `--contenders` says whom to
compare, and `--batches 30` or so that there is to be more to do.

On a machine that other work shares, `OMP_NUM_THREADS=1` gives all of them one
thread, and rates by seconds of the processor.
"""

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # for tfp alone
# JAX would take the memory of a GPU for itself.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np
from contenders import CONTENDERS, SHAPE
from peak import peak

CONFIGURATIONS = {  # depth, width, batch size, batches in a chunk
    "report": (10, 512, 32, 4),
    "large": (10, 512, 256, 1),
    "small": (4, 128, 32, 30),
    "deep": (32, 512, 16, 3),
}
OURS = ("keras_glow", "keras_glow, bfloat16")
OTHER_MODEL = "FrEIA (fixed rotation)"
WORK = ("train", "score", "sample")


def child(name, configuration, times):
    """Starts one contender, then does each line of input, and times it."""
    start = time.perf_counter()
    shared = "OMP_NUM_THREADS" in os.environ
    clock = time.process_time if shared else time.perf_counter
    depth, width, batch_size, batches = CONFIGURATIONS[configuration]
    batches *= times
    rng = np.random.default_rng(0)
    count = batch_size * batches
    images = rng.integers(0, 256, (count, *SHAPE), "uint8")
    environment = getattr(CONTENDERS[name], "environment", {})
    for variable, value in environment.items():
        os.environ.setdefault(variable, value)
    for module in CONTENDERS[name].modules:
        importlib.import_module(module)
    after_import = peak()
    contender = CONTENDERS[name](depth, width, batch_size)
    contender.train(images[:batch_size])
    started = time.perf_counter() - start
    contender.score(images[:batch_size])
    contender.sample(batch_size)
    report(parameters=contender.parameters(), start=started)
    for line in sys.stdin:
        work = line.strip()
        before = clock()
        getattr(contender, work)(count if work == "sample" else images)
        seconds = clock() - before
        report(rate=count / seconds, peak=peak() - after_import)


def matrix_products():
    """A child that multiplies matrices: GFLOP/s on each line of input."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(2048, 2048)).astype("float32")
    wait = None
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            matrix = torch.from_numpy(matrix).to("cuda")
            wait = torch.cuda.synchronize
            matrix @ matrix
    for _ in sys.stdin:
        before = time.perf_counter()
        for _ in range(10):
            matrix @ matrix
        if wait:
            wait()
        seconds = time.perf_counter() - before
        report(rate=10 * 2 * 2048**3 / seconds / 1e9)


def report(**values):
    """A line of JSON for the parent."""
    print(json.dumps(values), flush=True)


class Child:
    """A contender in a process of its own."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--child", *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended")
        return json.loads(line)

    def work(self, name):
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self.read()

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def compare(configuration, names, rounds, times):
    """Prints the table of one configuration."""
    children, start = {}, {}
    for name in names:
        children[name] = Child(name, configuration, times)
        try:
            start[name] = children[name].read()
            print(name, start[name], file=sys.stderr, flush=True)
        except RuntimeError as error:
            print(f"{name} does not run: {error}", file=sys.stderr)
            del children[name]
    products = Child("matrix products", configuration, times)
    rates = {name: {work: [] for work in WORK} for name in children}
    peaks, gigaflops = {}, []
    for number in range(rounds):
        gigaflops.append(products.work("product")["rate"])
        for work in WORK:
            for name, process in children.items():
                result = process.work(work)
                rates[name][work].append(result["rate"])
                peaks[name] = result["peak"]
                print(name, work, result, file=sys.stderr, flush=True)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    for process in (products, *children.values()):
        process.end()
    depth, width, batch_size, _ = CONFIGURATIONS[configuration]
    print(
        f"\n{configuration}: 3 levels, depth {depth}, width {width}, batch "
        f"{batch_size}; matrix products {statistics.median(gigaflops):.0f} "
        "GFLOP/s in float32\n"
    )
    print(
        "| | train, images/s | log-likelihood | sample | start-up, s "
        "| peak, MiB | parameters |\n" + "|---" * 7 + "|"
    )
    for name in children:
        cells = [median_and_range(rates[name][work]) for work in WORK]
        cells += [
            f"{start[name]['start']:.1f}",
            f"{peaks[name]:.0f}",
            f"{start[name]['parameters']:,}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()
    others = [n for n in children if n not in OURS and n != OTHER_MODEL]
    for ours in OURS:
        if ours in children and others:
            print_ratios(ours, others, rates)
    sys.stdout.flush()


def print_ratios(ours, others, rates):
    """The ratios to the best of the others, by medians."""
    ratios = []
    for work in WORK:
        best = max(others, key=lambda n: statistics.median(rates[n][work]))
        pairs = zip(rates[ours][work], rates[best][work], strict=True)
        ratio = median_and_range([a / b for a, b in pairs], digits=2)
        ratios.append(f"{work} {ratio} of {best}")
    print(f"{ours}: " + ", ".join(ratios) + "\n")


def median_and_range(values, digits=1):
    """Text: the median, and the least and the greatest in brackets."""
    return (
        f"{statistics.median(values):.{digits}f} "
        f"({min(values):.{digits}f} to {max(values):.{digits}f})"
    )


def main():
    """Compares them in each configuration."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--configurations", nargs="+", default=list(CONFIGURATIONS))
    add("--contenders", nargs="+", default=list(CONTENDERS))
    add("--backend", default="tensorflow")
    add("--rounds", type=int, default=3)
    add("--batches", type=int, default=1, help="so many times as many a chunk")
    add("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child:
        os.environ["KERAS_BACKEND"] = options.backend
        for configuration in options.configurations:
            compare(
                configuration,
                options.contenders,
                options.rounds,
                options.batches,
            )
    elif options.child[0] in CONTENDERS:
        name, configuration, times = options.child
        child(name, configuration, int(times))
    else:
        matrix_products()


if __name__ == "__main__":
    main()

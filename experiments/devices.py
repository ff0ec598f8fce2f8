"""What holds when a Glow is trained on two devices: a table of the engines.

    python experiments/devices.py [--engines NAME ...] [--out table.md]

Each engine runs on what any machine has, two virtual CPU devices or two
processes on loopback, beside one device of the same backend. Engines whose
backend cannot be imported are left out. To take several environments:

    python experiments/devices.py --python torch=PATH jax=PATH
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np

# name: (backend, processes, devices in each)
ENGINES = {
    "MirroredStrategy": ("tensorflow", 1, 2),
    "MultiWorkerMirroredStrategy": ("tensorflow", 2, 1),
    "DataParallel": ("jax", 1, 2),
    "DataParallel, 2 processes": ("jax", 2, 1),
    "DistributedDataParallel": ("torch", 2, 1),
}
SHAPE = (8, 8, 3)
BATCH = 32
STEPS = 6
SECONDS = 600


def images(count, seed=0):
    """Smooth images, int32: uint8 could not hold a value that is refused."""
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, SHAPE[0])[:, None, None]
    x = np.linspace(0, 1, SHAPE[1])[None, :, None]
    a, b, c = rng.normal(size=(3, count, 1, 1, SHAPE[2]))
    noise = rng.normal(size=(count, *SHAPE))
    return np.clip(128 + 40 * (a * y + b * x + c) + noise, 0, 255).astype(int)


# In a worker: one of the processes of an engine


class Worker:
    """Trains on one device; subclasses on several."""

    def __init__(self, rank, count, port):
        self.rank, self.count, self.port = rank, count, port
        self.set_up()
        import keras

        import keras_glow

        self.keras = keras
        same_noise(keras_glow.training.flow_loss)
        with self.scope():
            self.model = keras_glow.Glow(SHAPE, levels=2, depth=1, width=8)
            self.model.compile(keras.optimizers.SGD(0.0))

    def set_up(self):
        """What comes before Keras is imported."""

    def scope(self):
        """Where the model is made."""
        from contextlib import nullcontext

        return nullcontext()

    def part(self, batch):
        """The images that this process has to be given of a batch."""
        return batch

    def train(self, batches, learning_rate):
        """Trains on batches in order; returns the mean loss."""
        keras, part = self.keras, self.part

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return len(batches)

            def __getitem__(self, i):
                return (part(batches[i]).astype("int32"),)

        self.model.optimizer.learning_rate = learning_rate
        history = self.model.fit(Batches(), shuffle=False, verbose=0).history
        return history["loss"][0]

    def skipped(self):
        return int(self.model.optimizer.skipped.numpy())

    def replicas(self, variable):
        """The values of a variable on each device of this process."""
        return [self.keras.ops.convert_to_numpy(variable)]

    def weights(self):
        return self.flat(self.model.trainable_variables)

    def flat(self, variables):
        to_numpy = self.keras.ops.convert_to_numpy
        return np.concatenate([to_numpy(v).ravel() for v in variables])

    def measure(self):
        """What the table needs to know, as arrays."""
        first = images(BATCH)
        weights = self.model.trainable_variables
        # ActNorm is set from data; steps of length 0 leave it as it is.
        self.train([first], 0.0)
        start = self.weights()
        actnorm = [self.model.bijections[i].actnorm for i in (1, 4)]
        devices = [
            self.replicas(v) for a in actnorm for v in (a.bias, a.log_scale)
        ]
        set_on = [
            np.concatenate(values) for values in zip(*devices, strict=True)
        ]
        # One step of length 1 is minus the gradient.
        self.train([first], 1.0)
        gradient = start - self.weights()
        self.restore(weights, start)
        # Images of the last replica that are not in 0..255: a loss of nan.
        bad = first.copy()
        bad[BATCH // 2 :] = 999
        before = self.skipped()
        self.train([first, bad], 0.0)
        skipped = self.skipped() - before
        kept = np.array_equal(self.weights(), start)
        losses = [
            self.train([images(BATCH, seed=step + 1)], 1e-4)
            for step in range(STEPS)
        ]
        return {
            "actnorm": np.stack(set_on),
            "gradient": gradient,
            "skipped": skipped,
            "kept": kept,
            "losses": np.array(losses),
        }

    def restore(self, variables, values):
        start = 0
        for variable in variables:
            size = int(np.prod(variable.shape))
            part = values[start : start + size]
            variable.assign(part.reshape(variable.shape))
            start += size


def same_noise(module):
    """Has every image dequantised at the centre of its bins."""
    dequantize = module.dequantize
    module.dequantize = lambda images, noise, bits: dequantize(
        images, 0 * noise + 0.5, bits
    )


class Mirrored(Worker):
    """Replicas of one process, `tf.distribute.MirroredStrategy`."""

    def set_up(self):
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, devices)
        self.strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def scope(self):
        return self.strategy.scope()

    def replicas(self, variable):
        return [copy.numpy() for copy in variable.value.values]


class MultiWorker(Mirrored):
    """A process each, `tf.distribute.MultiWorkerMirroredStrategy`."""

    def set_up(self):
        workers = [f"127.0.0.1:{self.port + i}" for i in range(self.count)]
        os.environ["TF_CONFIG"] = json.dumps(
            {
                "cluster": {"worker": workers},
                "task": {"type": "worker", "index": self.rank},
            }
        )
        import tensorflow as tf

        self.strategy = tf.distribute.MultiWorkerMirroredStrategy()


class Jax(Worker):
    """`keras.distribution.DataParallel`, in one process or more."""

    def set_up(self):
        import keras

        if self.count > 1:
            keras.distribution.initialize(
                f"127.0.0.1:{self.port}", self.count, self.rank
            )
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(auto_shard_dataset=False)
        )

    def part(self, batch):
        return np.split(batch, self.count)[self.rank]

    def replicas(self, variable):
        shards = variable.value.addressable_shards
        return [np.asarray(shard.data) for shard in shards]


class Torch(Worker):
    """`DistributedDataParallel`, a process for each device."""

    def set_up(self):
        import torch
        from torch import distributed

        if torch.cuda.is_available():
            torch.cuda.set_device(self.rank % torch.cuda.device_count())
        distributed.init_process_group(
            "gloo",
            f"tcp://127.0.0.1:{self.port}",
            rank=self.rank,
            world_size=self.count,
        )
        self.parallel = None

    def part(self, batch):
        return np.split(batch, self.count)[self.rank]

    def train(self, batches, learning_rate):
        # The loop of docs/devices.md.
        import torch
        from torch.nn.parallel import DistributedDataParallel

        model = self.model
        if self.parallel is None:
            from keras_glow.flow.initialization import initialize

            images = model.dequantize(batches[0], seed=model.seed)
            initialize(model.encoder, images)
            model.optimizer.build(model.trainable_variables)
            self.parallel = DistributedDataParallel(model)
        model.optimizer.learning_rate = learning_rate
        weights = model.trainable_weights
        for batch in batches:
            model.zero_grad()
            x = torch.from_numpy(self.part(batch).astype("int32"))
            loss = model.compute_loss(y_pred=self.parallel(x, training=True))
            model.optimizer.scale_loss(loss).backward()
            with torch.no_grad():
                gradients = [weight.value.grad for weight in weights]
                model.optimizer.apply(gradients, weights)
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        return float(total) / self.count


WORKERS = {
    "one": Worker,
    "MirroredStrategy": Mirrored,
    "MultiWorkerMirroredStrategy": MultiWorker,
    "DataParallel": Jax,
    "DataParallel, 2 processes": Jax,
    "DistributedDataParallel": Torch,
}


def work(options):
    """One process of an engine."""
    worker = WORKERS[options.worker](options.rank, options.count, options.port)
    np.savez(options.out, **worker.measure())


# In the command: starts the workers and compares


def free_port():
    """A port of this machine that nothing listens to."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run(engine, backend, processes, devices, python, folder):
    """Runs the workers of an engine; what each measured, or the error."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    port, files, started = free_port(), [], []
    for rank in range(processes):
        files.append(pathlib.Path(folder) / f"{len(os.listdir(folder))}.npz")
        files[-1].touch()
        command = [python, __file__, "--worker", engine, f"--rank={rank}"]
        command += [f"--count={processes}", f"--port={port}"]
        started.append(
            subprocess.Popen(  # noqa: S603
                [*command, f"--out={files[-1]}"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        for process in started:
            printed, _ = process.communicate(timeout=SECONDS)
            if process.returncode:
                return printed.strip().splitlines()[-1]
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} s"
    finally:
        for process in started:
            process.kill()
            process.wait()
    return [dict(np.load(file)) for file in files]


def compare(workers, one):
    """The numbers of a row: two devices beside one."""
    actnorm = np.concatenate([worker["actnorm"] for worker in workers])
    gradient = one["gradient"]
    errors = [np.abs(w["gradient"] - gradient) for w in workers]
    losses = [np.abs(w["losses"] / one["losses"] - 1) for w in workers]
    return {
        "replicas": len(actnorm),
        "ActNorm apart": float(np.ptp(actnorm, axis=0).max()),
        "gradient error": float(np.max(errors) / np.abs(gradient).max()),
        "loss error": float(np.max(losses)),
        "steps left out": [int(w["skipped"]) for w in workers],
        "weights kept": all(bool(w["kept"]) for w in workers),
        "loss": [float(one["losses"][0]), float(one["losses"][-1])],
    }


def measure(engines, pythons):
    """Rows by engine: a dict of numbers, or the error as a string."""
    ones, rows = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for engine in engines:
            backend, processes, devices = ENGINES[engine]
            python = pythons.get(backend, sys.executable)
            if backend not in ones:
                ones[backend] = run("one", backend, 1, 1, python, folder)
            found = ones[backend]
            if not isinstance(found, str):
                found = run(engine, backend, processes, devices, python, folder)
            if not isinstance(found, str):
                found = compare(found, ones[backend][0])
            rows[engine] = found
    return rows


def table(rows):
    """The rows as Markdown."""
    lines = [
        "| engine | ActNorm apart | gradient | loss after "
        f"{STEPS} steps | a bad batch on one replica |",
        "|---|---|---|---|---|",
    ]
    for engine, row in rows.items():
        cells = [f"{row}", "", "", ""]
        if not isinstance(row, str):
            kept = "weights kept" if row["weights kept"] else "WEIGHTS LOST"
            cells = [
                f"{row['ActNorm apart']:.0e}",
                f"{row['gradient error']:.1e}",
                f"{row['loss error']:.1e}",
                f"{kept}, left out {max(row['steps left out'])}",
            ]
        name = f"{engine} ({ENGINES[engine][0]})"
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def importable(backend, python):
    """Whether an interpreter has the package of a backend."""
    done = subprocess.run(  # noqa: S603
        [
            *(python, "-c"),
            "import importlib.util, sys;"
            f"sys.exit(importlib.util.find_spec({backend!r}) is None)",
        ]
    )
    return done.returncode == 0


def main():
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=ENGINES)
    parser.add_argument("--python", nargs="+", metavar="BACKEND=PATH")
    parser.add_argument("--out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    for name in ("--rank", "--count", "--port"):
        parser.add_argument(name, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    pythons = dict(pair.split("=", 1) for pair in options.python or ())
    engines = [
        engine
        for engine in options.engines or ENGINES
        if importable(
            ENGINES[engine][0], pythons.get(ENGINES[engine][0], sys.executable)
        )
    ]
    printed = table(measure(engines, pythons))
    print(printed)
    if options.out:
        pathlib.Path(options.out).write_text(printed + "\n")


if __name__ == "__main__":
    main()

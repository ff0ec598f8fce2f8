"""The same model on TensorFlow, JAX and Torch: a table, backend by backend.

    python experiments/backends.py [--images faces.npz] [--out table.md] \
        [--tensorflow PYTHON] [--jax PYTHON] [--torch PYTHON]

Each backend trains a model and saves it; each loads each file, compares what it
computes with what the backend that wrote it does, and trains on. PYTHON is the
interpreter of an environment with that backend; by default this one, if the
backend can be imported. Without `--images`, images are drawn.

    python experiments/backends.py --golden tests/golden ...

keeps the files, and the numbers to 64 bits, for
`tests/backend/test_backends.py`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
SCORED = 100
SMALL = {"levels": 2, "depth": 1, "width": 8}
LARGE = {"levels": 3, "depth": 4, "width": 32}
SAMPLES = 32


def load_images(path):
    """Images to train on, and 100 others to score; drawn without a path."""
    if path:
        images = np.load(path)["images"][: 1000 + SCORED]
    else:
        rng = np.random.default_rng(0)
        y = np.linspace(0, 1, 8)[:, None, None]
        x = np.linspace(0, 1, 8)[None, :, None]
        a, b, c = rng.normal(size=(3, 500 + SCORED, 1, 1, 3))
        noise = rng.normal(size=(len(a), 8, 8, 3))
        images = 128 + 40 * (a * y + b * x + c) + noise
        images = np.clip(images, 0, 255).astype("uint8")
    return images[:-SCORED], images[-SCORED:]


# On one backend


def train(path, images):
    """Trains a model and saves it, its optimiser included."""
    import keras

    import keras_glow

    size = SMALL if images.shape[1] < 32 else LARGE
    model = keras_glow.Glow(images.shape[1:], **size)
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(images, epochs=4, verbose=0)
    model.save(path)


def measure(path, images):
    """What a backend makes of a file: a dict of arrays."""
    import keras_glow

    model = keras_glow.load_model(path)
    return {
        "log_prob": model.log_prob(images, seed=0),
        "log_prob_64": float64_twin(model, images),
        "samples": model.sample(SAMPLES, seed=0),
        "exact": np.array_equal(model.decode(model.encode(images)), images),
    }


def float64_twin(model, images):
    """`log_prob` of the same weights, computed in float64."""
    import keras

    import keras_glow

    jax = None
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
    config = {"dtype": "float64", "network_dtype": "float64"}
    try:
        twin = keras_glow.Glow.from_config({**model.get_config(), **config})
        twin.set_weights(model.get_weights())
        return twin.log_prob(images, seed=0)
    finally:
        if jax:
            jax.config.update("jax_enable_x64", False)


def train_on(path, images):
    """Goes on training from a file: loss before and after, and the steps."""
    import keras

    import keras_glow  # noqa: F401, whose classes the file names

    model = keras.saving.load_model(path)
    steps = [int(model.optimizer.iterations.numpy())]
    losses = [model.evaluate(images, verbose=0)[0]]
    model.fit(images, verbose=0)
    losses.append(model.evaluate(images, verbose=0)[0])
    steps.append(int(model.optimizer.iterations.numpy()))
    return {"losses": losses, "steps": steps}


def work(options):
    """One process: trains, or loads every file."""
    images, scored = load_images(options.images)
    folder = pathlib.Path(options.worker)
    if options.train:
        train(folder / f"{options.train}.keras", images)
        return
    for name in options.measure:
        path = folder / f"{name}.keras"
        found = {**measure(path, scored), **train_on(path, images)}
        np.savez_compressed(folder / f"{options.writer}_{name}.npz", **found)


# All of them


def call(python, backend, folder, images, *arguments):
    """Runs this file on a backend."""
    command = [python, __file__, "--worker", str(folder), *arguments]
    if images:
        command += ["--images", images]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }
    subprocess.run(command, env=environment, check=True)  # noqa: S603


def compare(pythons, folder, images):
    """Rows by (writer, reader): a dict of numbers each."""
    for writer, python in pythons.items():
        call(python, writer, folder, images, "--train", writer)
    for reader, python in pythons.items():
        arguments = ["--writer", reader, "--measure", *pythons]
        call(python, reader, folder, images, *arguments)
    rows = {}
    for writer in pythons:
        own = np.load(folder / f"{writer}_{writer}.npz")
        for reader in pythons:
            other = np.load(folder / f"{reader}_{writer}.npz")
            rows[writer, reader] = difference(own, other)
    return rows


def difference(own, other):
    """How far apart two backends are over one file."""
    grey = np.abs(own["samples"].astype(int) - other["samples"])
    return {
        "log_prob": float(np.abs(own["log_prob"] - other["log_prob"]).max()),
        "log_prob_64": float(
            np.abs(own["log_prob_64"] - other["log_prob_64"]).max()
        ),
        "exact": bool(other["exact"]),
        "grey": int(grey.max()),
        "differ": float(np.mean(grey > 0)),
        "losses": other["losses"].tolist(),
        "steps": other["steps"].tolist(),
    }


def table(rows):
    """The rows as Markdown."""
    lines = [
        "| trained on | loaded on | log_prob apart, nats | in float64 | round "
        "trip of 100 | samples apart, grey levels | training on, nats |",
        "|---|---|---|---|---|---|---|",
    ]
    for (writer, reader), row in rows.items():
        first, last = row["losses"]
        lines.append(
            f"| {writer} | {reader} | {row['log_prob']:.1e} | "
            f"{row['log_prob_64']:.1e} | "
            f"{'exact' if row['exact'] else 'NOT EXACT'} | {row['grey']} "
            f"({row['differ']:.0e} of the values) | {first:.1f} to {last:.1f}, "
            f"steps {row['steps'][0]} to {row['steps'][1]} |"
        )
    return "\n".join(lines)


def keep_golden(folder, golden):
    """Files and numbers for the tests; the numbers are those to 64 bits."""
    for path in folder.glob("*.keras"):
        (golden / f"trained_on_{path.name}").write_bytes(path.read_bytes())
        own = np.load(folder / f"{path.stem}_{path.stem}.npz")
        numbers = {
            "log_prob": own["log_prob_64"].tolist(),
            "samples": own["samples"][:4].tolist(),
            "loss": float(own["losses"][0]),
            "steps": int(own["steps"][0]),
        }
        name = f"trained_on_{path.stem}.json"
        (golden / name).write_text(json.dumps(numbers))


def importable(backend):
    """Whether this interpreter has the package of a backend."""
    from importlib import util

    return util.find_spec(backend) is not None


def main():
    """Measures, prints and, if asked, keeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", help=".npz with `images`, 32x32")
    parser.add_argument("--out", help="file of the table")
    parser.add_argument("--golden", help="folder of the tests' numbers")
    for backend in BACKENDS:
        parser.add_argument(f"--{backend}", metavar="PYTHON")
    for name in ("--worker", "--train", "--writer"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    pythons = {
        backend: getattr(options, backend) or sys.executable
        for backend in BACKENDS
        if getattr(options, backend) or importable(backend)
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        printed = table(compare(pythons, folder, options.images))
        if options.golden:
            keep_golden(folder, pathlib.Path(options.golden))
    print(printed)
    if options.out:
        pathlib.Path(options.out).write_text(printed + "\n")


if __name__ == "__main__":
    main()

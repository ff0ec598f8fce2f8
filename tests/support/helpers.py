"""Tools of the tests."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

ROOT = pathlib.Path(__file__).parents[2]

# The environment of a process that uses no backend: NumPy's, which needs JAX
# for a part of it, takes the least time to import.
WITHOUT_BACKEND = dict(os.environ)
if importlib.util.find_spec("jax"):
    WITHOUT_BACKEND["KERAS_BACKEND"] = "numpy"

# Whether a fit of a few steps had better be run eagerly: on TensorFlow tracing
# takes most of its time; on JAX each operation would be compiled by itself.
EAGERLY = keras.backend.backend() == "tensorflow"


def load_experiment(name):
    """A script of `experiments` as a module."""
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(path, folder, *arguments, **variables):
    """Runs a script in a folder, with some variables of its environment set."""
    run = subprocess.run(
        [sys.executable, path, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def to_numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def flat(tensors):
    """One row per example, for one tensor or several."""
    arrays = map(to_numpy, keras.tree.flatten(tensors))
    return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)


def flat_tensor(tensors):
    """Like `flat`, for the tensors of a backend: gradients flow through."""
    ops = keras.ops
    return ops.concatenate(
        [ops.reshape(t, (t.shape[0], -1)) for t in keras.tree.flatten(tensors)],
        axis=1,
    )


def gradients(loss, arrays):
    """Gradients of a scalar function of arrays."""
    backend = keras.backend.backend()
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        return tape.gradient(value, tensors)
    if backend == "jax":
        import jax

        return jax.grad(loss, range(len(tensors)))(*tensors)
    import torch

    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(loss(*tensors), tensors)


def jacobians(function, x):
    """The autodiff Jacobian for each example: (batch, outputs, inputs).

    The function maps a batch to as many outputs as inputs, `(batch, D)`. Each
    example is there once for each output, so one backward pass does for all: no
    example may have a part in the outputs of another.
    """
    count, size = len(x), x[0].size
    rows = np.tile(np.eye(size, dtype=x.dtype), (count, 1))
    rows = keras.ops.convert_to_tensor(rows)
    (found,) = gradients(
        lambda copies: keras.ops.sum(function(copies) * rows),
        [np.repeat(x, size, axis=0)],
    )
    return to_numpy(found).reshape(count, size, size)


def move_weights(layer, size=0.3):
    """Moves trainable weights off their start, where much is the identity."""
    rng = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        weight.assign(weight + size * rng.normal(size=weight.shape))


def untraced(model):
    """The model, whose parts run eagerly for what does not ask for a trace."""
    for part in (model.encoder, model.scorer, model.decoder):
        part.run_eagerly = EAGERLY
    return model


def data_file(name):
    """A file of the data folder, as the notebooks have it; None if missing."""
    folder = os.environ.get("KERAS_GLOW_DATA")
    if not folder:
        folder = ROOT.parent / "shared" / "data"
    path = pathlib.Path(folder) / name
    return path if path.is_file() else None


def faces(count):
    """Faces, uint8 (count, 32, 32, 3); smooth random images without a file."""
    path = data_file("faces32_valid.npz")
    if path is None:
        return random_images(count, (32, 32, 3))
    return np.load(path)["images"][:count]


def random_images(count, shape, seed=0):
    """Smooth random uint8 images, unlike noise: a flow can learn them."""
    rng = np.random.default_rng(seed)
    height, width, channels = shape
    y = np.linspace(0, 1, height)[:, None, None]
    x = np.linspace(0, 1, width)[None, :, None]
    a, b, c = rng.normal(size=(3, count, 1, 1, channels))
    images = 128 + 40 * (a * y + b * x + c) + rng.normal(size=(count, *shape))
    return np.clip(images, 0, 255).astype("uint8")


def turned_by_exif(image, orientation):
    """A PIL image stored otherwise, and the EXIF data that turn it upright."""
    from PIL import Image

    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)
    if stored is not None:
        image = image.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return image, exif

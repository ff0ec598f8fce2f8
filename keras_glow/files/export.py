"""Exports models that run without this package: SavedModel, LiteRT, ONNX."""

import importlib.util
import json

import keras
import numpy as np
from keras import ops

from keras_glow.backend.keras_internals import all_layers
from keras_glow.checks import check_choice, refuse
from keras_glow.files.atomic import atomic_folder
from keras_glow.flow.architecture import condition_inputs
from keras_glow.flow.pixels import dequantize, to_bins
from keras_glow.flow.prediction import with_conditions
from keras_glow.layers.bijection import Bijection, pixel_count
from keras_glow.layers.chain import share_traces
from keras_glow.layers.convolution import pointwise
from keras_glow.layers.flow_step import FlowStep
from keras_glow.layers.invertible_conv import InvertibleConv1x1
from keras_glow.layers.shuffle import Shuffle

# Formats of `keras.Model.export`, and the suffixes of their files; a SavedModel
# is a folder.
SUFFIXES = {"tf_saved_model": "", "litert": ".tflite", "onnx": ".onnx"}
MEANINGS = {
    "images": "pixels, such as 0..255 of 8 bits",
    "labels": "class of each image, from 0",
    "context": "what else is known of each image",
    "z": "standardised latents of all levels, finest first, flat",
    "temperature": "scales z first; 1 gives back the images of z",
    "x": "continuous images in [-0.5, 0.5), before they are quantised",
    "log_prob": "log-likelihood of each image in nats, with every pixel at the "
    "centre of its bin",
}


def export(model, path, format="tf_saved_model", verbose=False):
    """Write a model that runs without this package: see `Glow.export`."""
    check_choice("format", format, sorted(SUFFIXES))
    verbose = check_choice("verbose", verbose, (True, False, None))
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export expects the TensorFlow backend, which loads the files of "
            f"every other. Received: {keras.backend.backend()}"
        )
    if model.dtype != "float32":
        refuse("dtype", "float32 in a model to export", model.dtype)
    packages = ("tf2onnx", "onnx") if format == "onnx" else ()
    if not all(map(importlib.util.find_spec, packages)):
        raise ImportError("Export to ONNX expects: pip install tf2onnx onnx")
    signature = {
        "format": format,
        "bits": model.bits,
        "num_classes": model.num_classes,
        "context_shape": model.context_shape,
        "latent_shapes": model.latent_shapes,
    }
    with atomic_folder(path) as folder:
        for exported in standalone(model):
            file = folder / f"{exported.name}{SUFFIXES[format]}"
            inputs = {
                name: keras.InputSpec(tensor.dtype, tensor.shape, name=name)
                for name, tensor in exported.input.items()
            }
            exported.export(
                str(file), format, bool(verbose), input_signature=[inputs]
            )
            signature[exported.name] = {
                "file": file.name,
                "inputs": _describe(exported.input),
                "outputs": _describe(exported.output),
            }
        text = json.dumps(signature, indent=2)
        (folder / "signature.json").write_text(text + "\n")


def standalone(model):
    """Return the encoder and the decoder of a `Glow` as models to export.

    Nothing random and no host computation remains: inverted matrices and sorted
    orders become constants of the graph.

    Args:
        model: a `Glow`.

    Returns:
        Tuple of two functional models of dicts of tensors, with `labels`, int32
        `(batch,)`, beside the other inputs if the model has classes, and
        `context`, float `(batch, *context_shape)`, if it has one:

        - encoder: `images`, of the model's dtype, `(batch, height, width,
          channels)`, to `z`, float `(batch, D)`, as `Glow.encode` returns it,
          and `log_prob`, `(batch,)`, as `Glow.log_prob` returns it for
          `seed="center"`.
        - decoder: `z` and `temperature`, float `()`, to `images`, as
          `Glow.decode` returns them for `z * temperature`, and to `x`, the same
          images before they were quantised.
    """
    flow = model.with_arguments(memory="store")  # the model stays as it is
    share_traces(flow.encoder, False)
    for layer in all_layers(flow.encoder):
        if isinstance(layer, FlowStep):
            parts = tuple(map(_fixed, layer.parts()))
            # A built layer takes no other layers, but it takes functions.
            layer.parts = lambda parts=parts: parts
    return _encoder(flow), _decoder(flow)


def _encoder(flow):
    outputs = [flow.encoder.output, flow.scorer.output]
    encode = _Constant(keras.Model(flow.encoder.input, outputs))
    shape, dtype = flow.image_shape, flow.image_format.dtype
    inputs = {"images": keras.Input(shape, dtype=dtype, name="images")}
    # What tensors outside the graph give would be an input of it in ONNX.
    centre = ops.full_like(inputs["images"], 0.5, dtype=flow.dtype)
    x = dequantize(inputs["images"], centre, flow.bits)
    z, log_prob = encode(_with_conditions(flow, x, inputs))
    outputs = {"z": z, "log_prob": log_prob - flow.bin_nats}
    return keras.Model(inputs, outputs, name="encoder")


def _decoder(flow):
    shapes = {"z": (None, flow.dimensions), "temperature": ()}
    inputs = {
        name: keras.Input(batch_shape=shape, dtype=flow.dtype, name=name)
        for name, shape in shapes.items()
    }
    z = inputs["z"] * inputs["temperature"]
    x = _Constant(flow.decoder)(_with_conditions(flow, z, inputs))
    images = ops.cast(to_bins(x, flow.bits), flow.image_format.dtype)
    return keras.Model(inputs, {"images": images, "x": x}, name="decoder")


def _with_conditions(model, tensor, inputs):
    """Return the inputs of a flow; add those of conditions to a dict."""
    more = condition_inputs(model)
    inputs |= {each.name: each for each in more}
    return with_conditions(tensor, more)


def _fixed(bijection):
    """Replace a bijection whose inverse takes computing by its constants."""
    if isinstance(bijection, InvertibleConv1x1):
        matrix = ops.convert_to_numpy(bijection.matrix()).astype("float64")
    elif isinstance(bijection, Shuffle):
        order = ops.convert_to_numpy(bijection.permutation)
        matrix = np.eye(len(order))[order]
    else:
        return bijection
    return _Fixed(bijection, matrix)


class _Constant(keras.layers.Layer):
    """A model with all of its weights as constants of the graph."""

    def __init__(self, model):
        super().__init__(dtype=model.dtype)
        weights = [(v, ops.convert_to_numpy(v)) for v in model.variables]

        def run(inputs):
            with keras.StatelessScope(weights):
                return model(inputs)

        # Keras does not look into functions: it would find the variables, and
        # write them beside the graph.
        self.run = run

    def call(self, inputs):
        return self.run(inputs)


class _Fixed(Bijection):
    """Multiplies the channels of each pixel by a constant matrix."""

    def __init__(self, layer, matrix):
        super().__init__(name=layer.name, dtype=layer.dtype)
        # They are transposed, since pixels are rows.
        matrices = matrix.T, np.linalg.inv(matrix).T
        self.there, self.back = (m.astype(layer.dtype) for m in matrices)
        self.log_abs_det = float(np.linalg.slogdet(matrix).logabsdet)

    def _forward(self, x):
        log_det = self.zero_log_det(x) + pixel_count(x) * self.log_abs_det
        return pointwise(x, ops.convert_to_tensor(self.there)), log_det

    def _inverse(self, z):
        return pointwise(z, ops.convert_to_tensor(self.back))


def _describe(tensors):
    """Describe tensors by name; None in a shape stands for any batch size."""
    return {
        name: {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "meaning": MEANINGS[name],
        }
        for name, tensor in tensors.items()
    }

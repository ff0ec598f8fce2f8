"""The multi-scale architecture: its layers, and the models built of them."""

import math
import typing

import keras
import numpy as np

from keras_glow import layers
from keras_glow.flow.encoder import Encoder, FlowModel
from keras_glow.flow.levels import latent_shapes, latent_slices
from keras_glow.layers.chain import Chain
from keras_glow.layers.sequence import call_with_labels, walk
from keras_glow.losses import LogDetLoss, LogProb


class Level(typing.NamedTuple):
    """One level: a squeeze, steps of flow, and the prior of its latents."""

    squeeze: layers.Squeeze
    steps: Chain  # of FlowStep
    prior: layers.Split | layers.GaussianPrior
    first: tuple = ()  # what the images go through before the squeeze

    @property
    def bijections(self):
        """Returns its bijections in the order of encoding."""
        return *self.first, self.squeeze, self.steps, self.prior


def build_flow(
    image_shape,
    levels,
    depth,
    num_classes,
    class_priors,
    seed,
    dtype,
    memory,
    border,
    standardize,
    **step,
):
    """Builds all layers of a Glow: a list of `Level`, finest first.

    With `standardize` the images are standardised first. `step` holds further
    arguments of each `FlowStep`.
    """
    split_classes = num_classes if class_priors == "all" else None
    # One seed gives independent seeds for all steps.
    seeds = iter(
        np.random.SeedSequence(seed).generate_state(levels * depth).tolist()
    )
    flow = []
    for level in range(1, levels + 1):
        squeeze = layers.Squeeze(name=f"squeeze_{level}", dtype=dtype)
        steps = [
            layers.FlowStep(
                seed=next(seeds),
                name=f"step_{level}_{number}",
                dtype=dtype,
                border=border,
                **step,
            )
            for number in range(1, depth + 1)
        ]
        if level < levels:
            prior = layers.Split(
                border, split_classes, name=f"split_{level}", dtype=dtype
            )
        else:
            prior = layers.GaussianPrior(
                num_classes=num_classes, name="prior", dtype=dtype
            )
        steps = Chain(steps, memory, name=f"steps_{level}", dtype=dtype)
        flow.append(Level(squeeze, steps, prior))
    if standardize:
        first = layers.Standardize(name="standardize", dtype=dtype)
        flow[0] = flow[0]._replace(first=(first,))
    return flow


def build_encoder(flow, image_shape, num_classes, dtype):
    """Returns symbolic inputs, latents `(batch, D)`, log-dets `(batch,)`."""
    image = keras.Input(image_shape, dtype=dtype, name="image")
    labels = _labels(num_classes)
    layers_in_order = (layer for level in flow for layer in level.bijections)
    *lower, (_, _, top, log_det) = walk(layers_in_order, image, labels)
    latents = [z[1] for _, _, z, _ in lower if isinstance(z, list)]
    # Keras' global image data format would change the order of the latents.
    flat = [
        keras.layers.Flatten(data_format="channels_last", dtype=dtype)(latent)
        for latent in (*latents, top)
    ]
    z, *others = flat
    if others:
        z = keras.layers.Concatenate(dtype=dtype)(flat)
    return image if labels is None else [image, labels], z, log_det


def build_decoder(flow, image_shape, num_classes, dtype):
    """Returns symbolic inputs and the image, through the same layers."""
    z = keras.Input((math.prod(image_shape),), dtype=dtype, name="z")
    labels = _labels(num_classes)
    shapes = latent_shapes(image_shape, len(flow))
    latents = [
        keras.layers.Reshape(shape, dtype=dtype)(z[:, part])
        for shape, part in zip(shapes, latent_slices(shapes), strict=True)
    ]
    h = None
    for level, latent in zip(reversed(flow), reversed(latents), strict=True):
        out = latent if h is None else [h, latent]
        h = call_with_labels(level.prior, out, labels, inverse=True)
        h = level.squeeze.inverse(level.steps.inverse(h))
        for bijection in level.first:
            h = bijection.inverse(h)
    return z if labels is None else [z, labels], h


def _labels(num_classes):
    if num_classes:
        return keras.Input((), dtype="int32", name="labels")
    return None


def assemble(flow, image_shape, num_classes, dtype, name):
    """Builds the models of a flow, with names that begin with `name`.

    Returns:
        Tuple of functional models: encoder (image to z, adds the loss
        `-mean(log_det)`), scorer (image to log-density `(batch,)` in nats) and
        decoder (z to image).
    """
    # The encoder comes first: Keras counts the outputs of a layer's first call
    # and accepts no later call that has more.
    inputs, z, log_det = build_encoder(flow, image_shape, num_classes, dtype)
    outputs = LogDetLoss(name="log_det_loss", dtype=dtype)(z, log_det)
    encoder = Encoder(inputs, outputs, name=f"{name}_encoder")
    log_prob = LogProb(name="log_prob", dtype=dtype)(z, log_det)
    scorer = FlowModel(inputs, log_prob, name=f"{name}_scorer")
    inputs, image = build_decoder(flow, image_shape, num_classes, dtype)
    decoder = FlowModel(inputs, image, name=f"{name}_decoder")
    return encoder, scorer, decoder

"""The multi-scale architecture: its layers, and the models built of them."""

import typing

import keras
import numpy as np

from keras_glow import layers
from keras_glow.flow.encoder import Encoder, FlowModel
from keras_glow.flow.levels import latent_slices, level_depths, level_shapes
from keras_glow.flow.prediction import with_conditions
from keras_glow.layers.chain import Chain
from keras_glow.layers.context_network import FEATURE_CHANNELS, ContextNetwork
from keras_glow.layers.programs import run
from keras_glow.layers.sequence import Given, inputs_of, walk
from keras_glow.losses import LogDetLoss, LogProb

# Arguments of `Glow` that each step of flow gets.
OF_A_STEP = (
    *("permutation", "coupling", "width", "scale", "network_dtype"),
    *("network", "blocks", "dropout", "border"),
)


class Level(typing.NamedTuple):
    """One level: a squeeze, steps of flow, and the prior of its latents."""

    squeeze: layers.Squeeze
    steps: Chain  # of FlowStep
    prior: layers.Split | layers.GaussianPrior
    context: ContextNetwork | None = None
    first: tuple = ()  # what the images go through before the squeeze

    @property
    def bijections(self):
        """Returns its bijections in the order of encoding."""
        return *self.first, self.squeeze, self.steps, self.prior

    def parts(self):
        """Returns the same, with the steps one by one."""
        return *self.first, self.squeeze, *self.steps.bijections, self.prior


# In what follows `model` is a `Glow` that has its arguments, as attributes, but
# not yet its layers.


def build_flow(model):
    """Builds all layers of a Glow: a list of `Level`, finest first."""
    levels, dtype = model.levels, model.dtype
    depths = level_depths(levels, model.depth)
    num_classes, context_shape = model.conditions
    split_classes = num_classes if model.class_priors == "all" else None
    conditioned = context_shape or model.class_couplings
    context, context_channels = None, FEATURE_CHANNELS if conditioned else None
    # One seed gives independent seeds for all steps, and then for the networks
    # of a context.
    count = sum(depths)
    seeds = np.random.SeedSequence(model.seed).generate_state(count + levels)
    seeds, more = iter(seeds[:count].tolist()), iter(seeds[count:].tolist())
    flow = []
    shapes = level_shapes(model.image_shape, levels)
    for level, (shape, depth) in enumerate(zip(shapes, depths, strict=True), 1):
        squeeze = layers.Squeeze(name=f"squeeze_{level}", dtype=dtype)
        steps = [
            layers.FlowStep(
                seed=next(seeds),
                name=f"step_{level}_{number}",
                dtype=dtype,
                context_channels=context_channels,
                # A rotation keeps white what is white. At every step, whitening
                # would enlarge a direction without any variance each time.
                whiten=model.whiten and number == 1,
                **{name: getattr(model, name) for name in OF_A_STEP},
            )
            for number in range(1, depth + 1)
        ]
        common = {"context_channels": context_channels, "dtype": dtype}
        if level < levels:
            prior = layers.Split(
                model.border, split_classes, name=f"split_{level}", **common
            )
        else:
            prior = layers.GaussianPrior(num_classes, name="prior", **common)
        if conditioned:
            context = ContextNetwork(
                (shape.height, shape.width),
                next(more),
                num_classes if model.class_couplings else None,
                name=f"context_{level}",
                dtype=dtype,
            )
        for layer in (*steps, *(p for s in steps for p in s.parts()), prior):
            layer.level = level - 1
        steps = Chain(steps, model.memory, name=f"steps_{level}", dtype=dtype)
        flow.append(Level(squeeze, steps, prior, context))
    if model.bits is None:
        first = layers.Standardize(name="standardize", dtype=dtype)
        flow[0] = flow[0]._replace(first=(first,))
    return flow


def build_encoder(flow, model):
    """Returns symbolic inputs, latents `(batch, D)`, log-dets `(batch,)`."""
    dtype = model.dtype
    image = keras.Input(model.image_shape, dtype=dtype, name="image")
    inputs = condition_inputs(model)
    given = given_to(model.context_networks, model.conditions, inputs)
    layers_in_order = (layer for level in flow for layer in level.bijections)
    *lower, (_, _, top, log_det) = walk(layers_in_order, image, given)
    latents = [z[1] for _, _, z, _ in lower if isinstance(z, list)]
    # Keras' global image data format would change the order of the latents.
    flat = [
        keras.layers.Flatten(data_format="channels_last", dtype=dtype)(latent)
        for latent in (*latents, top)
    ]
    z, *others = flat
    if others:
        z = keras.layers.Concatenate(dtype=dtype)(flat)
    return with_conditions(image, inputs), z, log_det


def build_decoder(flow, model):
    """Returns symbolic inputs and the image, through the same layers."""
    z = keras.Input((model.dimensions,), dtype=model.dtype, name="z")
    inputs = condition_inputs(model)
    given = given_to(model.context_networks, model.conditions, inputs)
    shapes = model.latent_shapes
    latents = [
        keras.layers.Reshape(shape, dtype=model.dtype)(z[:, part])
        for shape, part in zip(shapes, latent_slices(shapes), strict=True)
    ]
    h = None
    for level, latent in zip(reversed(flow), reversed(latents), strict=True):
        h = latent if h is None else [h, latent]
        for bijection in reversed(level.bijections):
            h = bijection.inverse(inputs_of(bijection, h, given))
    return with_conditions(z, inputs), h


def condition_inputs(model):
    """Returns symbolic tensors in the order of `Conditions`."""
    num_classes, shape = model.conditions
    inputs = []
    if num_classes:
        inputs.append(keras.Input((), dtype="int32", name="labels"))
    if shape:
        inputs.append(keras.Input(shape, dtype=model.dtype, name="context"))
    return inputs


def given_to(networks, conditions, values):
    """Returns the `Given` of the values of `conditions`.

    `networks` are the `ContextNetwork` of all levels, if there are any. Without
    a context they read the labels.
    """
    values = list(values)
    labels = values.pop(0) if conditions.num_classes else None
    context = values or [labels]
    return Given(labels, [run(n, n.__call__, *context) for n in networks])


def assemble(flow, model):
    """Builds the models of a flow, with names that begin with the model's.

    Returns:
        Tuple of functional models: encoder (image to z, adds the loss
        `-mean(log_det)`), scorer (image to log-density `(batch,)` in nats) and
        decoder (z to image).
    """
    # The encoder comes first: Keras counts the outputs of a layer's first call
    # and accepts no later call that has more.
    name, dtype = model.name, model.dtype
    inputs, z, log_det = build_encoder(flow, model)
    outputs = LogDetLoss(name="log_det_loss", dtype=dtype)(z, log_det)
    encoder = Encoder(inputs, outputs, name=f"{name}_encoder")
    log_prob = LogProb(name="log_prob", dtype=dtype)(z, log_det)
    scorer = FlowModel(inputs, log_prob, name=f"{name}_scorer")
    inputs, image = build_decoder(flow, model)
    decoder = FlowModel(inputs, image, name=f"{name}_decoder")
    return encoder, scorer, decoder

"""Probes of a flow: images unlike any, their errors, condition numbers."""

import math

import numpy as np
from keras import ops

from keras_glow.checks import check_images
from keras_glow.flow.prediction import whole_batches, with_conditions
from keras_glow.images.grid import shades
from keras_glow.layers import programs


def check_inputs(model, images, labels, context):
    """Check images, at least one; return them and the tuple of conditions."""
    images = check_images(images, model.image_format, least=1)
    return images, model.conditions.check(labels, context, len(images))


def half_grey_level(model):
    """Return the error up to which the centre of a bin stays in its bin.

    For floats it is that of 8 bits, see `span`.
    """
    return 0.5 / 2 ** (model.bits or 8)


def usual_range(model):
    """Return a lowest and a highest value of pixels, numbers or `(channels,)`.

    For floats they are 3 deviations from the mean of the data.
    """
    if model.bits is not None:
        return model.image_format.limits
    ends = np.ones((2, 1, 1, model.image_shape[-1]), model.dtype)
    ends *= np.reshape([-3, 3], (2, 1, 1, 1))
    return ops.convert_to_numpy(model.bijections[0].inverse(ends))[:, 0, 0]


def to_show(model, pixels):
    """Return images of a model as uint8, with the 1 or 3 channels of a picture.

    Of other numbers of channels, the first one or three are shown.
    """
    if pixels.dtype != "uint8":
        pixels = shades(pixels, *usual_range(model))
    return pixels[..., : 1 if pixels.shape[-1] < 3 else 3]


def span(model):
    """Return the unit of errors: what continuous images, or floats, span."""
    low, high = usual_range(model)
    return 1.0 if model.bits is not None else high - low


def reconstruction_errors(model, images, given=(), batch_size=None):
    """Return the largest |x - decoder(encoder(x))| of each image, `(batch,)`.

    x are the centres of the bins of the images, which span 1; of floats it is
    in units of `span`.
    """
    x = model.dequantize(images, seed="center")
    with programs.shared_programs(model):
        z = run(model.encoder, x, given, batch_size)
        back = run(model.decoder, z, given, batch_size)
    return np.max(np.abs(back - x) / span(model), axis=(1, 2, 3))


def out_of_distribution_images(model, images=None, count=4):
    """Make images that hardly any model was trained on.

    Args:
        model: a `Glow`.
        images: to make two further kinds of, by inverting them
            and by shuffling their pixels; or None, to leave these kinds out.
        count: int, images of each kind of which there can be several.

    Returns:
        Dict of arrays `(1 or count, height, width, channels)` by kind.
    """
    rng = np.random.default_rng(0)
    image_shape, dtype = model.image_shape, model.image_format.dtype
    black, white = usual_range(model)
    step = model.bits is not None  # between two neighbouring values, 1 or 0
    height, width = np.indices(image_shape[:2])
    odd = ((height + width) % 2 == 1)[None, ..., None]
    shape, one = (count, *image_shape), np.ones((1, *image_shape))
    normal = black + (white - black) * (0.5 + 0.5 * rng.normal(size=shape))
    kinds = {
        "uniform noise": rng.uniform(black, white + step, shape),
        "normal noise": np.clip(normal, black, white),
        "black": one * black,
        "white": one * white,
        "checkerboard": np.where(odd, one * white, one * black),
    }
    if images is not None:
        first = np.asarray(images[:count])
        pixels = first.reshape(len(first), -1, image_shape[-1])
        kinds["inverted"] = black + white - first.astype("float64")
        kinds["shuffled"] = rng.permuted(pixels, axis=1).reshape(first.shape)
    return {kind: values.astype(dtype) for kind, values in kinds.items()}


def errors_by_kind(model, kinds, given=(), batch_size=None):
    """Return the largest of `reconstruction_errors` for each kind of images.

    `kinds` is a dict such as that of `out_of_distribution_images`.
    """
    images = np.concatenate(list(kinds.values()))
    given = conditions_for(model, len(images), given)
    errors = reconstruction_errors(model, images, given, batch_size)
    starts = np.cumsum([0, *map(len, kinds.values())])[:-1]
    worst = np.maximum.reduceat(errors, starts).tolist()
    return dict(zip(kinds, worst, strict=True))


def conditions_for(model, count, given=()):
    """Return `count` of each condition: those given, repeated, or else 0."""
    rows = np.arange(count)
    return [a[rows % len(a)] for a in given or model.conditions.zeros(1)]


def condition_number(layer):
    """Return that of the W of an `InvertibleConv1x1`, computed in float64.

    It is inf if W is singular, nan if a weight is not finite.
    """
    if layer.lu and not np.exp(ops.convert_to_numpy(layer.log_s)).all():
        return math.inf  # The rounding of the product L U would hide it.
    matrix = programs.run(layer, layer.matrix)
    matrix = ops.convert_to_numpy(matrix).astype("float64")
    if not np.isfinite(matrix).all():
        return math.nan
    return float(np.linalg.cond(matrix))


def run(model, inputs, given, batch_size=None):
    """Encode or decode eagerly, without a program of its own; a numpy array.

    All batches have the same size, by default that of the inputs.
    """
    outputs = []
    for rows in whole_batches(len(inputs), batch_size or len(inputs)):
        x, *few = (ops.convert_to_tensor(a[rows]) for a in (inputs, *given))
        outputs.append(ops.convert_to_numpy(model(with_conditions(x, few))))
    return np.concatenate(outputs)[: len(inputs)]

"""The flow's doctor: finds where images get lost, and other faults.

Training can move a flow to where its inverse no longer gives back its input.
No loss and no likelihood shows it: both use the forward pass alone.
"""

import math

import numpy as np
from keras import ops

from keras_glow.analysis import probes
from keras_glow.analysis.report import Diagnosis, LayerReport, LevelReport
from keras_glow.checks import check_integer
from keras_glow.flow.initialization import is_initialized
from keras_glow.flow.levels import latent_slices
from keras_glow.flow.prediction import whole_batches
from keras_glow.layers import ActNorm, AffineCoupling, InvertibleConv1x1
from keras_glow.layers.programs import run
from keras_glow.layers.sequence import (
    inputs_of,
    named_parts,
    relative_error,
    round_trip,
)

# float32 has 24 bits. A matrix of this condition number takes 13 of them; those
# that are left resolve about half a grey level of 256.
MAX_CONDITION = 1e4
# In nats per dimension: a Gaussian of standard deviation 1.33, or 0.7.
MAX_DIVERGENCE = 0.1
RATIO_IMAGES = 4
RATIO_DIRECTIONS = 4
RATIO_STEP = 1e-3
MAPPED_AT_ONCE = RATIO_IMAGES * (1 + RATIO_DIRECTIONS)


def diagnose(model, images, labels=None, batch_size=32, context=None):
    """See `Glow.diagnose`."""
    images, given = probes.check_inputs(model, images, labels, context)
    batch_size = check_integer("batch_size", batch_size, 1)
    parts = named_parts(model.bijections)
    conditions = {
        name: probes.condition_number(part)
        for name, part in parts.items()
        if isinstance(part, InvertibleConv1x1)
    }
    not_finite = _not_finite(parts)
    singular = [n for n, value in conditions.items() if value == math.inf]
    if not_finite or singular:
        # No image gets through, and some backends raise an error.
        measured = {
            "worst_layer": [*not_finite, *singular][0],
            "layers": [LayerReport(name) for name in parts],
            "levels": [],
        }
    else:
        measured = _measure(model, parts, images, given, batch_size)
    for layer in measured["layers"]:
        layer.condition = conditions.get(layer.name)
    diagnosis = Diagnosis(
        images=len(images),
        values=images.size,
        half_grey_level=probes.half_grey_level(model),
        floats=model.bits is None,
        problems=[*not_finite.values(), *_ill_conditioned(conditions)],
        remarks=[],
        **measured,
    )
    diagnosis.problems += _problems_with_images(diagnosis)
    diagnosis.remarks += _remarks_on_fit(model, diagnosis)
    return diagnosis


# Measurements


def _measure(model, parts, images, given, batch_size):
    """Return the fields of a `Diagnosis` that need images there and back."""
    x = model.dequantize(images, seed="center")
    noisy = model.dequantize(images, seed=0)
    # Whatever is compiled, is compiled for one size of batches.
    size = min(batch_size, max(len(x), MAPPED_AT_ONCE))
    rows, back = [], []
    for batch in whole_batches(len(x), size):
        tensors = model.given([array[batch] for array in given])
        trip = list(round_trip(parts.values(), x[batch], tensors))
        rows.append([_measure_layer(*stay, tensors) for stay in reversed(trip)])
        back.append(ops.convert_to_numpy(trip[-1][-1]))
    latents = probes.run(model.encoder, noisy, given, size)
    layers = list(map(_layer_report, parts, zip(*rows, strict=True)))
    back = np.concatenate(back)[: len(x)]
    errors = np.abs(back - x) / probes.span(model)
    few = [array[:RATIO_IMAGES] for array in given]
    forward_ratio, z = _ratio(model.encoder, x[:RATIO_IMAGES], few, size)
    inverse_ratio, _ = _ratio(model.decoder, z, few, size)
    unlike = probes.out_of_distribution_images(model, images)
    unlike = probes.errors_by_kind(model, unlike, given, size)
    return {
        "values_lost": int(np.sum(~(errors < probes.half_grey_level(model)))),
        "reconstruction_error": float(np.max(errors)),
        "reconstruction_error_ood": unlike,
        "forward_ratio": forward_ratio,
        "inverse_ratio": inverse_ratio,
        "worst_layer": _worst_layer(layers, np.finfo(model.dtype).eps),
        "layers": layers,
        "levels": _level_reports(latents, model.latent_shapes),
    }


def _measure_layer(part, x, z, back, given):
    """Return the errors alone and on the way back, and the factors if any."""
    alone = part.inverse(inputs_of(part, z, given))
    errors = relative_error(x, alone), relative_error(x, back)
    if isinstance(part, ActNorm):
        log_scale = part.log_scale
    elif isinstance(part, AffineCoupling):
        inputs = inputs_of(part, x, given)
        log_scale = run(part, part.log_scale, inputs)
    else:
        return errors
    scale = np.exp(ops.convert_to_numpy(log_scale).astype("float64"))
    return (*errors, np.min(scale), np.max(scale))


def _layer_report(name, rows):
    """Return the `LayerReport` of the rows of all batches."""
    error, way_back_error, *scales = np.transpose(rows)
    report = LayerReport(name, float(error.max()), float(way_back_error.max()))
    if scales:
        report.smallest_scale = float(scales[0].min())
        report.largest_scale = float(scales[1].max())
    return report


def _level_reports(z, latent_shapes):
    reports = []
    for columns in latent_slices(latent_shapes):
        latents = z[:, columns].astype("float64")
        mean, deviation = np.mean(latents), np.std(latents)
        with np.errstate(divide="ignore"):
            divergence = (mean**2 + deviation**2 - 1) / 2 - np.log(deviation)
        reports.append(
            LevelReport(float(mean), float(deviation), float(divergence))
        )
    return reports


def _ratio(model, x, given, batch_size):
    """Return the largest |f(x + d) - f(x)| / |d| over a few random d; f(x)."""
    directions = np.random.default_rng(0).normal(
        size=(RATIO_DIRECTIONS, len(x), x[0].size)
    )
    directions *= RATIO_STEP / np.linalg.norm(directions, axis=2, keepdims=True)
    start = x.reshape(1, len(x), -1)
    points = np.concatenate([start, start + directions]).astype(x.dtype)
    given = [np.concatenate(len(points) * [array]) for array in given]
    mapped = probes.run(
        model, points.reshape(-1, *x.shape[1:]), given, batch_size
    )
    start = mapped[: len(x)]
    mapped = mapped.reshape(points.shape)
    changes, steps = (
        np.linalg.norm((array[1:] - array[0]).astype("float64"), axis=2)
        for array in (mapped, points)
    )
    return float(np.max(changes / steps)), start


def _worst_layer(layers, epsilon):
    """Return the name of the layer to blame for the error on the way back.

    It is the first beyond which nothing is finite, or else the one that
    multiplies the error most, counted from a rounding error.
    """
    for layer in layers:
        if not math.isfinite(layer.error):
            return layer.name
    error_so_far, worst, largest_factor = 0.0, None, -1.0
    for layer in reversed(layers):
        error = layer.way_back_error
        if not math.isfinite(error):
            return layer.name
        factor = error / max(error_so_far, epsilon)
        if factor > largest_factor:
            worst, largest_factor = layer.name, factor
        error_so_far = error
    return worst


# Judgements


def _not_finite(parts):
    """Return sentences on weights that are not finite, by the layer's name."""
    sentences = {}
    for name, part in parts.items():
        for weight in part.weights:
            values = ops.convert_to_numpy(weight)
            count = np.count_nonzero(~np.isfinite(values))
            if count and name not in sentences:
                # A chain around the layer would only lengthen the path.
                path = name + weight.path.rpartition(name)[2]
                sentences[name] = (
                    f"the weight {path} holds {count} of {values.size} values "
                    "that are not finite"
                )
    return sentences


def _ill_conditioned(conditions):
    return [
        f"W of {name} is singular"
        if condition == math.inf
        else f"W of {name} has the condition number {condition:.1e}, more than "
        f"{MAX_CONDITION:.0e}: its inverse is not accurate"
        for name, condition in conditions.items()
        if condition > MAX_CONDITION
    ]


def _problems_with_images(diagnosis):
    problems = []
    if diagnosis.values_lost:
        problems.append(
            f"{diagnosis.values_lost:,} of {diagnosis.values:,} values do not "
            f"come back; the layer to blame is {diagnosis.worst_layer}"
        )
    kinds = [
        kind
        for kind, error in diagnosis.reconstruction_error_ood.items()
        if not error < diagnosis.half_grey_level
    ]
    if kinds:
        problems.append(
            f"images unlike these do not come back: {', '.join(kinds)}"
        )
    return problems


def _remarks_on_fit(model, diagnosis):
    remarks = []
    if not is_initialized(model.encoder):
        remarks.append("ActNorm was never set from data: not a trained model")
    for number, level in enumerate(diagnosis.levels, 1):
        if level.divergence > MAX_DIVERGENCE:
            remarks.append(
                f"the latents of level {number} are far from standard normal: "
                "the model does not fit these images"
            )
    return remarks

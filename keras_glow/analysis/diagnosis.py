"""The flow's doctor: finds where images get lost, and other faults.

Training can move a flow to where its inverse no longer gives back its input.
No loss and no likelihood shows it: both use the forward pass alone.
"""

import math

import numpy as np
from keras import ops

from keras_glow.analysis.probes import (
    check_inputs,
    condition_number,
    errors_by_kind,
    half_grey_level,
    out_of_distribution_images,
    run,
)
from keras_glow.analysis.report import Diagnosis, LayerReport, LevelReport
from keras_glow.checks import check_integer
from keras_glow.flow.initialization import is_initialized
from keras_glow.flow.levels import latent_slices
from keras_glow.layers import ActNorm, AffineCoupling, InvertibleConv1x1
from keras_glow.layers.sequence import (
    call_with_labels,
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


def diagnose(model, images, labels=None, batch_size=32):
    """See `Glow.diagnose`."""
    images, labels = check_inputs(model, images, labels)
    batch_size = check_integer("batch_size", batch_size, 1)
    parts = named_parts(model.bijections)
    conditions = {
        name: condition_number(part)
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
        measured = _measure(model, parts, images, labels, batch_size)
    for layer in measured["layers"]:
        layer.condition = conditions.get(layer.name)
    diagnosis = Diagnosis(
        images=len(images),
        values=images.size,
        half_grey_level=half_grey_level(model),
        problems=[*not_finite.values(), *_ill_conditioned(conditions)],
        remarks=[],
        **measured,
    )
    diagnosis.problems += _problems_with_images(diagnosis)
    diagnosis.remarks += _remarks_on_fit(model, diagnosis)
    return diagnosis


# Measurements


def _measure(model, parts, images, labels, batch_size):
    """Return the fields of a `Diagnosis` that need images there and back."""
    rows, largest_errors, values_lost, latents = [], [], 0, []
    noisy = model.dequantize(images, seed=0)
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        batch_labels = None if labels is None else labels[batch]
        x = model.dequantize(images[batch], seed="center")
        batch_rows, back = _measure_layers(parts, x, batch_labels)
        rows.append(batch_rows)
        errors = np.abs(back - x)
        largest_errors.append(np.max(errors))
        values_lost += int(np.sum(~(errors < half_grey_level(model))))
        latents.append(run(model.encoder, noisy[batch], batch_labels))
    layers = [
        _layer_report(name, part, layer_rows)
        for (name, part), layer_rows in zip(
            parts.items(), np.stack(rows, axis=1), strict=True
        )
    ]
    ratio_labels = None if labels is None else labels[:RATIO_IMAGES]
    x = model.dequantize(images[:RATIO_IMAGES], seed="center")
    z = run(model.encoder, x, ratio_labels)
    return {
        "values_lost": values_lost,
        "reconstruction_error": float(np.max(largest_errors)),
        "reconstruction_error_ood": errors_by_kind(
            model,
            out_of_distribution_images(model.image_shape, images),
            labels,
        ),
        "forward_ratio": _ratio(model.encoder, x, ratio_labels),
        "inverse_ratio": _ratio(model.decoder, z, ratio_labels),
        "worst_layer": _worst_layer(layers, np.finfo(model.dtype).eps),
        "layers": layers,
        "levels": _level_reports(np.concatenate(latents), model.latent_shapes),
    }


def _measure_layers(parts, image, labels):
    """Return a row of numbers for each part, and the image that comes back.

    A row holds the error alone, that on the way back, and the two scales.
    """
    rows = []
    for part, x, z, back in round_trip(parts.values(), image, labels):
        alone = call_with_labels(part, z, labels, inverse=True)
        errors = relative_error(x, alone), relative_error(x, back)
        rows.append((*errors, *_scales(part, x)))
    return rows[::-1], ops.convert_to_numpy(back)


def _scales(part, x):
    """Return the smallest and the largest factor, nan if there are none."""
    if isinstance(part, ActNorm):
        log_scale = part.log_scale
    elif isinstance(part, AffineCoupling):
        log_scale = part.log_scale(x)
    else:
        return math.nan, math.nan
    scale = np.exp(ops.convert_to_numpy(log_scale).astype("float64"))
    return np.min(scale), np.max(scale)


def _layer_report(name, part, rows):
    error, way_back_error, _, largest = np.max(rows, axis=0).tolist()
    report = LayerReport(name, error, way_back_error)
    if isinstance(part, (ActNorm, AffineCoupling)):
        report.smallest_scale = float(np.min(rows[:, 2]))
        report.largest_scale = largest
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


def _ratio(model, x, labels):
    """Return the largest |f(x + d) - f(x)| / |d| over a few random d."""
    directions = np.random.default_rng(0).normal(
        size=(RATIO_DIRECTIONS, len(x), x[0].size)
    )
    directions *= RATIO_STEP / np.linalg.norm(directions, axis=2, keepdims=True)
    start = x.reshape(1, len(x), -1)
    points = np.concatenate([start, start + directions]).astype(x.dtype)
    labels = None if labels is None else np.tile(labels, len(points))
    mapped = run(model, points.reshape(-1, *x.shape[1:]), labels)
    mapped = mapped.reshape(points.shape)
    changes, steps = (
        np.linalg.norm((array[1:] - array[0]).astype("float64"), axis=2)
        for array in (mapped, points)
    )
    return float(np.max(changes / steps))


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

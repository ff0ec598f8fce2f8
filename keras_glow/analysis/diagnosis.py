"""The flow's doctor: where images get lost, and what is not as it should be.

Training moves a flow to where its inverse may no longer give back what went in.
That shows in no loss and in no likelihood: both use the forward pass alone.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_glow.checks import check_images, check_integer, check_labels
from keras_glow.flow.initialization import is_initialized
from keras_glow.layers import ActNorm, AffineCoupling, InvertibleConv1x1
from keras_glow.layers.sequence import apply, relative_error, there_and_back

# float32 has 24 bits. A matrix of this condition number takes 13 of them, and
# what is left is about half a grey level of 256.
MAX_CONDITION = 1e4
# nats per dimension: a Gaussian of standard deviation 1.33, or 0.7.
MAX_DIVERGENCE = 0.1
RATIO_IMAGES = 4
RATIO_DIRECTIONS = 4
RATIO_STEP = 1e-3


@dataclasses.dataclass
class LayerReport:
    """What is known of one layer. Errors are relative to its largest input.

    Attributes:
        name: such as `"step_2_1/coupling"`: level 2, step 1.
        error: of the input after the layer and its own inverse, alone.
        way_back_error: of the input after the rest of the flow as well, there
            and back.
        smallest_scale: the smallest factor of an ActNorm, or of an affine
            coupling over all images; None for other layers.
        largest_scale: likewise the largest.
        condition: condition number of W, None for other layers.
    """

    name: str
    error: float = math.nan
    way_back_error: float = math.nan
    smallest_scale: float | None = None
    largest_scale: float | None = None
    condition: float | None = None


@dataclasses.dataclass
class LevelReport:
    """Moments of all latents of a level: 0, 1 and 0 if they are standard.

    Attributes:
        mean: over images and dimensions.
        deviation: standard deviation, likewise.
        divergence: KL divergence, in nats per dimension, of a Gaussian with
            these moments from the standard normal. Correlations, and whether
            the latents are Gaussian at all, do not enter.
    """

    mean: float = math.nan
    deviation: float = math.nan
    divergence: float = math.nan


@dataclasses.dataclass
class Diagnosis:
    """What `Glow.diagnose` finds; `str()` of it is a report to read.

    Where no image comes through, what needs one is nan, None or empty.

    Attributes:
        images: int, how many were looked at.
        values: int, numbers in them.
        half_grey_level: up to here an error is without consequence, in units
            of continuous images, which span 1.
        worst_layer: name of the layer that multiplies errors most.
        layers: a `LayerReport` for each layer, in the order of encoding.
        levels: a `LevelReport` for each level, finest first.
        problems: list of str, reasons why images get lost; empty if healthy.
        remarks: list of str, on what is not well fitted.
        values_lost: int, how many come back half a grey level off or more.
        reconstruction_error: max |x - decoder(encoder(x))| of the images, in
            units of continuous images.
        reconstruction_error_ood: dict of the same for images unlike those, see
            `out_of_distribution_images`.
        forward_ratio: largest |f(x + d) - f(x)| / |d| of the encoder found for
            small steps d in random directions: no Lipschitz constant of it is
            smaller.
        inverse_ratio: the same of the decoder, at the latents of the images.
    """

    images: int
    values: int
    half_grey_level: float
    worst_layer: str
    layers: list
    levels: list
    problems: list
    remarks: list
    values_lost: int | None = None
    reconstruction_error: float = math.nan
    reconstruction_error_ood: dict = dataclasses.field(default_factory=dict)
    forward_ratio: float = math.nan
    inverse_ratio: float = math.nan

    @property
    def verdict(self):
        """In one line of plain words, what to think of it."""
        if self.problems:
            others = len(self.problems) - 1
            more = f" (and {others} more)" if others else ""
            return f"Not healthy: {self.problems[0]}{more}."
        share = self.reconstruction_error / self.half_grey_level
        return (
            f"Healthy: all {self.values:,} values come back exactly, and the "
            f"largest error is {share:.2%} of what would change one."
        )

    def to_dict(self):
        """All of it as a dict of plain values."""
        return {"verdict": self.verdict, **dataclasses.asdict(self)}

    def __str__(self):
        lines = [
            self.verdict,
            *(f"- {line}" for line in (*self.problems, *self.remarks)),
            "",
            *(self._seen() if self.levels else ()),
            f"worst layer: {self.worst_layer}",
            "",
            "errors there and back, relative, of each layer alone and with all "
            "that follow it:",
            f"{'layer':24s}  {'alone':>8s}  {'with all':>8s}  "
            f"{'scale':>20s}  {'condition':>9s}",
            *map(_layer_line, self.layers),
        ]
        return "\n".join(lines)

    def _seen(self):
        unlike = ", ".join(
            f"{kind} {error:.1e}"
            for kind, error in self.reconstruction_error_ood.items()
        )
        return [
            f"reconstruction error of {self.images} images: "
            f"{self.reconstruction_error:.1e} (half a grey level: "
            f"{self.half_grey_level:.1e}), {self.values_lost:,} of "
            f"{self.values:,} values lost",
            f"of images unlike them: {unlike}",
            f"a small step grows at most {self.forward_ratio:.3g} times in "
            f"encoding, {self.inverse_ratio:.3g} times in decoding",
            f"{'latents of level':16s}  {'mean':>8s}  {'deviation':>9s}  "
            "KL to N(0, 1), of a Gaussian with these moments, nats/dim",
            *(
                f"{number:<16d}  {level.mean:8.4f}  {level.deviation:9.4f}  "
                f"{level.divergence:.4f}"
                for number, level in enumerate(self.levels, 1)
            ),
        ]


def _layer_line(layer):
    scale = condition = ""
    if layer.smallest_scale is not None:
        scale = f"{layer.smallest_scale:.3g} to {layer.largest_scale:.3g}"
    if layer.condition is not None:
        condition = f"{layer.condition:.3g}"
    return (
        f"{layer.name:24s}  {layer.error:8.1e}  {layer.way_back_error:8.1e}  "
        f"{scale:>20s}  {condition:>9s}"
    ).rstrip()


def diagnose(model, images, labels=None, batch_size=32):
    """See `Glow.diagnose`."""
    images, labels = check_inputs(model, images, labels)
    batch_size = check_integer("batch_size", batch_size, 1)
    parts = _parts(model)
    conditions = {
        name: condition_number(part)
        for name, part in parts.items()
        if isinstance(part, InvertibleConv1x1)
    }
    lost = _not_finite(parts)
    singular = [n for n, value in conditions.items() if value == math.inf]
    if lost or singular:
        # Nothing comes through, and some backends raise an error.
        found = {
            "worst_layer": [*lost, *singular][0],
            "layers": [LayerReport(name) for name in parts],
            "levels": [],
        }
    else:
        found = _look_at(model, parts, images, labels, batch_size)
    for layer in found["layers"]:
        layer.condition = conditions.get(layer.name)
    diagnosis = Diagnosis(
        images=len(images),
        values=images.size,
        half_grey_level=half_grey_level(model),
        problems=[*lost.values(), *_ill_conditioned(conditions)],
        remarks=[],
        **found,
    )
    diagnosis.problems += _lost_images(diagnosis)
    diagnosis.remarks += _remarks(model, diagnosis)
    return diagnosis


def check_inputs(model, images, labels):
    """Images, one or more, and their labels; see `keras_glow.checks`."""
    images = check_images(images, model.image_shape, least=1)
    return images, check_labels(labels, len(images), model.num_classes)


def half_grey_level(model):
    """The error up to which the centre of a bin comes back to its bin."""
    return 0.5 / 2**model.bits


def reconstruction_errors(model, images, labels=None):
    """Largest |x - decoder(encoder(x))| of each image, from its bins' centres.

    Args:
        model: a `Glow`.
        images: integers 0..255, `(batch, height, width, channels)`.
        labels: int array `(batch,)`, or None.

    Returns:
        Float array `(batch,)`, in units of continuous images, which span 1.
    """
    x = model.dequantize(images, seed="center")
    back = _decode(model, _encode(model, x, labels), labels)
    return np.max(np.abs(back - x), axis=(1, 2, 3))


def out_of_distribution_images(image_shape, images=None, count=4, seed=0):
    """Images that hardly any model was trained on.

    Args:
        image_shape: (height, width, channels).
        images: integers 0..255, to make some of by inverting and by shuffling
            their pixels; or None, to leave these two out.
        count: int, of each kind that can differ.
        seed: int.

    Returns:
        Dict of uint8 arrays `(1 or count, height, width, channels)` by kind.
    """
    rng = np.random.default_rng(seed)
    shape = (count, *image_shape)
    height, width = np.indices(image_shape[:2])
    checkerboard = np.zeros((1, *image_shape), "uint8")
    checkerboard[:, (height + width) % 2 == 1] = 255
    normal = 127.5 + 127.5 * rng.normal(size=shape)
    kinds = {
        "uniform noise": rng.integers(0, 256, shape, "uint8"),
        "normal noise": np.clip(normal, 0, 255).astype("uint8"),
        "black": np.zeros((1, *image_shape), "uint8"),
        "white": np.full((1, *image_shape), 255, "uint8"),
        "checkerboard": checkerboard,
    }
    if images is not None:
        few = np.asarray(images[:count], "uint8")
        pixels = few.reshape(len(few), -1, image_shape[-1])
        kinds["inverted"] = 255 - few
        kinds["shuffled"] = rng.permuted(pixels, axis=1).reshape(few.shape)
    return kinds


def errors_by_kind(model, kinds, labels=None):
    """The largest of `reconstruction_errors` for each kind of images.

    Args:
        model: a `Glow`.
        kinds: dict of images, such as of `out_of_distribution_images`.
        labels: see `labels_for`.

    Returns:
        Dict of floats.
    """
    images = np.concatenate(list(kinds.values()))
    labels = labels_for(model, len(images), labels)
    errors = reconstruction_errors(model, images, labels)
    ends = np.cumsum([len(own) for own in kinds.values()])[:-1]
    return {
        kind: float(np.max(own))
        for kind, own in zip(kinds, np.split(errors, ends), strict=True)
    }


def labels_for(model, count, labels=None):
    """As many labels as wanted: those given, repeated; None for class 0.

    A model without classes gets None.
    """
    if model.num_classes is None:
        return None
    return np.resize([0] if labels is None else labels, count)


def condition_number(layer):
    """Of the W of an `InvertibleConv1x1`, in float64; inf if it is singular.

    nan if a weight is not finite.
    """
    if layer.lu and not np.exp(ops.convert_to_numpy(layer.log_s)).all():
        return math.inf  # which the rounding of the product L U would hide
    matrix = ops.convert_to_numpy(layer.matrix()).astype("float64")
    if not np.isfinite(matrix).all():
        return math.nan
    return float(np.linalg.cond(matrix))


# What goes in


def _parts(model):
    """Dict by name of all bijections, with steps of flow taken apart."""
    parts = {}
    for bijection in model.bijections:
        for part in bijection.parts():
            inside = "" if part is bijection else f"/{part.name}"
            parts[f"{bijection.name}{inside}"] = part
    return parts


def _encode(model, x, labels):
    """Eagerly, so that nothing has to be compiled; a numpy array."""
    return _call(model.encoder, x, labels)


def _decode(model, z, labels):
    return _call(model.decoder, z, labels)


def _call(model, tensor, labels):
    inputs = [tensor] if labels is None else [tensor, labels]
    inputs = [ops.convert_to_tensor(tensor) for tensor in inputs]
    return ops.convert_to_numpy(model(inputs if inputs[1:] else inputs[0]))


# What is measured


def _look_at(model, parts, images, labels, batch_size):
    """The fields of a `Diagnosis` that take images going there and back."""
    rows, worst, lost, latents = [], [], 0, []
    noisy = model.dequantize(images, seed=0)
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        own_labels = None if labels is None else labels[batch]
        x = model.dequantize(images[batch], seed="center")
        own_rows, back = _walk(parts, x, own_labels)
        rows.append(own_rows)
        errors = np.abs(back - x)
        worst.append(np.max(errors))
        lost += int(np.sum(~(errors < half_grey_level(model))))
        latents.append(_encode(model, noisy[batch], own_labels))
    layers = [
        _layer_report(name, part, own_rows)
        for (name, part), own_rows in zip(
            parts.items(), np.stack(rows, axis=1), strict=True
        )
    ]
    few = images[:RATIO_IMAGES]
    own_labels = None if labels is None else labels[:RATIO_IMAGES]
    x = model.dequantize(few, seed="center")
    z = _encode(model, x, own_labels)
    return {
        "values_lost": lost,
        "reconstruction_error": float(np.max(worst)),
        "reconstruction_error_ood": errors_by_kind(
            model,
            out_of_distribution_images(model.image_shape, images),
            labels,
        ),
        "forward_ratio": _ratio(model, _encode, x, own_labels),
        "inverse_ratio": _ratio(model, _decode, z, own_labels),
        "worst_layer": _worst(layers, np.finfo(model.dtype).eps),
        "layers": layers,
        "levels": _level_reports(np.concatenate(latents), model.latent_shapes),
    }


def _walk(parts, image, labels):
    """A row of four numbers for each part, and what comes back of the image."""
    rows = []
    for part, x, z, back in there_and_back(parts.values(), image, labels):
        alone = apply(part, z, labels, inverse=True)
        errors = relative_error(x, alone), relative_error(x, back)
        rows.append((*errors, *_scales(part, x)))
    return rows[::-1], ops.convert_to_numpy(back)


def _scales(part, x):
    """The smallest and the largest factor, nan if there are none."""
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
    smallest = float(np.min(rows[:, 2]))
    scaled = isinstance(part, (ActNorm, AffineCoupling))
    return LayerReport(
        name,
        error,
        way_back_error,
        smallest if scaled else None,
        largest if scaled else None,
    )


def _level_reports(z, latent_shapes):
    ends = np.cumsum([math.prod(shape) for shape in latent_shapes])[:-1]
    reports = []
    for latents in np.split(z.astype("float64"), ends, axis=1):
        mean, deviation = np.mean(latents), np.std(latents)
        with np.errstate(divide="ignore"):
            divergence = (mean**2 + deviation**2 - 1) / 2 - np.log(deviation)
        reports.append(
            LevelReport(float(mean), float(deviation), float(divergence))
        )
    return reports


def _ratio(model, call, x, labels):
    """Largest |f(x + d) - f(x)| / |d| over a few random directions d."""
    directions = np.random.default_rng(0).normal(
        size=(RATIO_DIRECTIONS, len(x), x[0].size)
    )
    directions *= RATIO_STEP / np.linalg.norm(directions, axis=2, keepdims=True)
    start = x.reshape(1, len(x), -1)
    points = np.concatenate([start, start + directions]).astype(x.dtype)
    mapped = call(
        model,
        points.reshape(-1, *x.shape[1:]),
        None if labels is None else np.tile(labels, len(points)),
    ).reshape(points.shape)
    changes, steps = (
        np.linalg.norm((array[1:] - array[0]).astype("float64"), axis=2)
        for array in (mapped, points)
    )
    return float(np.max(changes / steps))


def _worst(layers, epsilon):
    """Name of the layer that is to blame for the error on the way back.

    It is the first beyond which nothing is finite, or else the one that makes
    the error the most times larger, counted from a rounding error.
    """
    for layer in layers:
        if not math.isfinite(layer.error):
            return layer.name
    before, worst, largest = 0.0, None, -1.0
    for layer in reversed(layers):
        error = layer.way_back_error
        if not math.isfinite(error):
            return layer.name
        if error / max(before, epsilon) > largest:
            worst, largest = layer.name, error / max(before, epsilon)
        before = error
    return worst


# What is said of it


def _not_finite(parts):
    """Dict by layer of what is to be said of a weight that is not finite."""
    lost = {}
    for name, part in parts.items():
        for weight in part.weights:
            values = ops.convert_to_numpy(weight)
            count = np.count_nonzero(~np.isfinite(values))
            if count and name not in lost:
                # A chain around the layer is no matter here.
                path = name + weight.path.rpartition(name)[2]
                lost[name] = (
                    f"the weight {path} holds {count} of {values.size} values "
                    "that are not finite"
                )
    return lost


def _ill_conditioned(conditions):
    return [
        f"W of {name} is singular"
        if condition == math.inf
        else f"W of {name} has the condition number {condition:.1e}, more than "
        f"{MAX_CONDITION:.0e}: its inverse is not accurate"
        for name, condition in conditions.items()
        if condition > MAX_CONDITION
    ]


def _lost_images(diagnosis):
    problems = []
    if diagnosis.values_lost:
        problems.append(
            f"{diagnosis.values_lost:,} of {diagnosis.values:,} values do not "
            f"come back; the layer to blame is {diagnosis.worst_layer}"
        )
    unlike = [
        kind
        for kind, error in diagnosis.reconstruction_error_ood.items()
        if not error < diagnosis.half_grey_level
    ]
    if unlike:
        problems.append(
            f"images unlike these do not come back: {', '.join(unlike)}"
        )
    return problems


def _remarks(model, diagnosis):
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

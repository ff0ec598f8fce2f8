"""What `Glow.diagnose` returns, as data and as text."""

import dataclasses
import math


@dataclasses.dataclass
class LayerReport:
    """Measurements of one layer. Errors are relative to its largest input.

    Attributes:
        name: such as `"step_2_1/coupling"`: level 2, step 1.
        error: of the input after the layer and its own inverse, alone.
        way_back_error: of the input after the rest of the flow as well, there
            and back.
        smallest_scale, largest_scale: factors of an ActNorm, or of an affine
            coupling over all images; None for other layers.
        condition: condition number of W, None for other layers.
    """

    name: str
    error: float = math.nan
    way_back_error: float = math.nan
    smallest_scale: float | None = None
    largest_scale: float | None = None
    condition: float | None = None

    def line(self):
        """Return a row of the table of layers."""
        scale = condition = ""
        if self.smallest_scale is not None:
            scale = f"{self.smallest_scale:.3g} to {self.largest_scale:.3g}"
        if self.condition is not None:
            condition = f"{self.condition:.3g}"
        return (
            f"{self.name:24s}  {self.error:8.1e}  {self.way_back_error:8.1e}  "
            f"{scale:>20s}  {condition:>9s}"
        ).rstrip()


@dataclasses.dataclass
class LevelReport:
    """Moments of all latents of a level: 0, 1 and 0 if they are standard.

    Attributes:
        mean, deviation: over images and dimensions.
        divergence: KL divergence, in nats per dimension, of a Gaussian with
            these moments from the standard normal. It sees neither correlations
            nor whether the latents are Gaussian at all.
    """

    mean: float = math.nan
    deviation: float = math.nan
    divergence: float = math.nan


@dataclasses.dataclass
class Diagnosis:
    """The findings of `Glow.diagnose`; `str()` of it is a report to read.

    Where no image gets through, fields that need one are nan, None or empty.

    Attributes:
        images: int, how many were examined.
        values: int, numbers in them.
        half_grey_level: up to here an error is without consequence, in units
            of continuous images, which span 1; floats, of mean -3 to +3
            deviations.
        worst_layer: name of the layer that multiplies errors most.
        layers: a `LayerReport` for each layer, in the order of encoding.
        levels: a `LevelReport` for each level, finest first.
        problems: list of str, reasons why images get lost; empty if healthy.
        remarks: list of str, signs of a bad fit.
        values_lost: int, how many come back half a grey level off or more.
        floats: bool, whether they are no integers; they count as 8 bits.
        reconstruction_error: max |x - decoder(encoder(x))| of the images, in
            units of continuous images.
        reconstruction_error_ood: dict of the same for images unlike those, see
            `keras_glow.analysis.probes.out_of_distribution_images`.
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
    floats: bool = False
    reconstruction_error: float = math.nan
    reconstruction_error_ood: dict = dataclasses.field(default_factory=dict)
    forward_ratio: float = math.nan
    inverse_ratio: float = math.nan

    @property
    def verdict(self):
        """One line of plain words, whether the model is healthy."""
        if self.problems:
            others = len(self.problems) - 1
            more = f" (and {others} more)" if others else ""
            return f"Not healthy: {self.problems[0]}{more}."
        share = self.reconstruction_error / self.half_grey_level
        exactly = "to rounding" if self.floats else "exactly"
        return (
            f"Healthy: all {self.values:,} values come back {exactly}, and the "
            f"largest error is {share:.2%} of what would change one."
        )

    def to_dict(self):
        """Return everything as a dict of plain values."""
        return {"verdict": self.verdict, **dataclasses.asdict(self)}

    def __str__(self):
        lines = [
            self.verdict,
            *(f"- {line}" for line in (*self.problems, *self.remarks)),
            "",
            *(self._summary_lines() if self.levels else ()),
            f"worst layer: {self.worst_layer}",
            "",
            "errors there and back, relative, of each layer alone and with all "
            "that follow it:",
            f"{'layer':24s}  {'alone':>8s}  {'with all':>8s}  "
            f"{'scale':>20s}  {'condition':>9s}",
            *(layer.line() for layer in self.layers),
        ]
        return "\n".join(lines)

    def _summary_lines(self):
        errors_by_kind = ", ".join(
            f"{kind} {error:.1e}"
            for kind, error in self.reconstruction_error_ood.items()
        )
        return [
            f"reconstruction error of {self.images} images: "
            f"{self.reconstruction_error:.1e} (half a grey level: "
            f"{self.half_grey_level:.1e}), {self.values_lost:,} of "
            f"{self.values:,} values lost",
            f"of images unlike them: {errors_by_kind}",
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

"""Draws the curve of a run, without a package for plots."""

import itertools
import math

from PIL import Image, ImageDraw, ImageFont

SIZE = 900, 520
LEFT, TOP, RIGHT, BOTTOM = 70, 40, 880, 470  # of the axes
COLORS = "#1f77b4", "#d95f02"
GREY, BLACK = "#d0d0d0", "#202020"


def draw_curve(curves, path, unit="bits/dim"):
    """Draws bits/dim, or what the unit says, over the epochs.

    `curves` has a list of them for each name; nan leaves a gap.
    """
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(15)
    known = list(filter(math.isfinite, itertools.chain(*curves.values())))
    ticks = _ticks(min(known), max(known)) if known else [0.0, 1.0]
    epochs = max(map(len, curves.values()), default=0)

    def place(epoch, value):
        x = LEFT + (RIGHT - LEFT) * (epoch - 1) / max(epochs - 1, 1)
        share = (value - ticks[0]) / (ticks[-1] - ticks[0])
        return x, BOTTOM - (BOTTOM - TOP) * share

    for tick in ticks:
        y = place(1, tick)[1]
        draw.line([(LEFT, y), (RIGHT, y)], GREY)
        draw.text((LEFT - 8, y), f"{tick:.4g}", BLACK, font, anchor="rm")
    for epoch in sorted({1, *range(0, epochs + 1, max(1, epochs // 8))} - {0}):
        x = place(epoch, ticks[0])[0]
        draw.text((x, BOTTOM + 8), str(epoch), BLACK, font, anchor="mt")
    draw.text((LEFT, 12), unit, BLACK, font)
    draw.text((RIGHT, BOTTOM + 28), "epoch", BLACK, font, anchor="rt")
    x = RIGHT
    for (name, values), color in zip(curves.items(), COLORS, strict=False):
        points = [
            place(epoch, value)
            for epoch, value in enumerate(values, 1)
            if math.isfinite(value)
        ]
        if points:
            draw.line(points, color, 3, joint="curve")
            for point in points if len(points) < 60 else ():
                draw.circle(point, 3, color)
            draw.text((x, 12), name, color, font, anchor="rt")
            x -= draw.textlength(name, font) + 24
    image.save(path)


def _ticks(low, high):
    """Returns about six round numbers from below low to above high."""
    spread = max(high - low, 1e-3 * max(abs(high), 1e-3))
    step = 10 ** math.floor(math.log10(spread))
    step *= next(f for f in (0.2, 0.5, 1, 2) if spread / (step * f) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [n * step for n in range(first, max(last, first + 1) + 1)]

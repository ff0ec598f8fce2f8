"""Tells the format of a checkpoint and converts it to a `Glow`."""

import os
import re

from keras_glow.checks import check_boolean, check_choice, check_integer, refuse
from keras_glow.conversion.chaiyujin import Chaiyujin, Y0ast
from keras_glow.conversion.checkpoint_files import open_checkpoint
from keras_glow.conversion.openai import Openai
from keras_glow.conversion.rosinality import Rosinality
from keras_glow.conversion.to_glow import to_glow
from keras_glow.files.strict_reader import DTYPES
from keras_glow.glow import Glow
from keras_glow.layers.sequence import walk

FORMATS = {
    "rosinality": Rosinality,
    "y0ast": Y0ast,
    "chaiyujin": Chaiyujin,
    "openai": Openai,
}


def convert(
    path: str | os.PathLike,
    image_size: int | None = None,
    bits: int = 8,
    format: str | None = None,
    prefix: str | None = None,
    as_images: bool = True,
    dtype: str = "float32",
) -> Glow:
    """Convert another project's checkpoint to a `Glow` that does the same.

    | `format` | project | file |
    |---|---|---|
    | `"rosinality"` | rosinality/glow-pytorch | `.pt` |
    | `"y0ast"` | y0ast/Glow-PyTorch | `.pt`, `.pth` |
    | `"chaiyujin"` | chaiyujin/glow-pytorch | `.pkg` |
    | `"openai"` | openai/glow | `.ckpt` of TensorFlow 1 |

    An `.npz` of arrays under the same names will do as well. PyTorch is not
    needed, and nothing is unpickled; only TensorFlow's own files need
    TensorFlow.

    The model computes what the original does, the likelihood and the latents
    of an image as well as the image of latents: where conventions differ, the
    weights absorb it. Its z is that of the original, level by level, finest
    first, each flattened in the order (height, width, channels), with the
    channels of the original, and standardised by the original's priors:
    `(z - mean) / sigma`. See `raw_latents` for the z before that.

    The model can be trained further. Its `sigma` is kept within `exp(7)`, which
    no trained model should reach.

    Args:
        path: the checkpoint.
        image_size: int, or (height, width). Files of rosinality and openai do
            not hold it, those of the others do.
        bits: int 1..8, bits per subpixel that it was trained with, which no
            file holds. The default of rosinality/glow-pytorch is 5, that of
            the others 8.
        format: one of the names above; None to tell by the weights' names.
        prefix: str in front of the weights' names, such as `"module."`; None to
            find it.
        as_images: bool. chaiyujin's models saw pixels from 0 to 1. True
            converts them to see the continuous images of every `Glow`, whose
            density differs from the original's by the constant
            `D log(256 / 255)`; False leaves them a range of their own, in
            which nothing but `encoder` and `decoder` is of use.
        dtype: `"float32"` or `"float64"`.

    Returns:
        A `Glow`, not compiled.

    Raises:
        ModelFileError: naming the file and what is wrong with it.
        FileNotFoundError: if there is none.
        ValueError: naming the argument that is not as described.
    """
    bits = check_integer("bits", bits, 1, 8)
    check_choice("format", format, (None, *FORMATS))
    check_choice("dtype", dtype, DTYPES)
    check_boolean("as_images", as_images)
    size = _check_image_size(image_size)
    with open_checkpoint(path) as arrays:
        format, prefix = _recognise(arrays, format, prefix)
        project = FORMATS[format](arrays, prefix)
        size_in_file = project.image_size()
        if size is None and size_in_file is None:
            refuse(
                "image_size",
                f"given, since a checkpoint of {format} does not hold it",
                image_size,
            )
        if None not in (size, size_in_file) and size != size_in_file:
            expected = f"{size_in_file}, as in the checkpoint"
            refuse("image_size", expected, image_size)
        description = project.read(size or size_in_file)
        scale, bias = project.scale_and_bias if as_images else (1.0, 0.0)
        return to_glow(description, bits, scale, bias, dtype)


def raw_latents(model, x):
    """Return the latents of each level before they are standardised.

    They are the z of the projects that `convert` reads.

    Args:
        model: a `Glow` without classes.
        x: continuous images `(batch, height, width, channels)`.

    Returns:
        List of tensors `(batch, height, width, channels)`, finest level first.
    """
    latents = []
    for _, h, z, _ in walk(model.bijections[:-1], x):
        if isinstance(z, list):
            # A split keeps the first channels, the others leave.
            latents.append(h[..., z[0].shape[-1] :])
    return [*latents, z]


def _check_image_size(size):
    if size is None:
        return None
    sizes = (size, size) if not isinstance(size, (tuple, list)) else size
    try:
        height, width = (check_integer("image_size", n, 1) for n in sizes)
    except ValueError:
        expected = "an integer >= 1, or (height, width), or None"
        refuse("image_size", expected, size)
    return height, width


def _recognise(arrays, format, prefix):
    """Return the format and the prefix that fit the names of the weights."""
    fitting = [
        (name, match[1])
        for name, project in FORMATS.items()
        for key in arrays
        if (match := re.fullmatch(f"(.*){re.escape(project.first)}", key))
        and format in (None, name)
        and prefix in (None, match[1])
    ]
    if not fitting:
        wanted = format or f"any of {', '.join(FORMATS)}"
        raise ValueError(f"it does not hold the weights of {wanted}")
    if len(fitting) > 1:
        raise ValueError(
            "it holds several models: choose one by `prefix`, "
            + " or ".join(repr(prefix) for _, prefix in fitting)
        )
    return fitting[0]

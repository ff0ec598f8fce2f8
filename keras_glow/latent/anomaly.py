"""Judges how unlike the training images an image is."""

import keras
import numpy as np
import numpy.typing as npt

from keras_glow.checks import check_choice, refuse
from keras_glow.images.grid import png_bytes

METHODS = ("complexity", "ratio", "typicality", "likelihood")


def anomaly_score(
    model: keras.Model,
    images: npt.ArrayLike,
    method: str = "complexity",
    background: keras.Model | None = None,
    typical: npt.ArrayLike | None = None,
    seed: int | str | None = 0,
    **kwargs,
) -> np.ndarray:
    """Score images: the less they are like the training images, the higher.

    Raw likelihood fails at this: smooth images, and most of all constant ones,
    are more likely than the training images, since likelihood mostly measures
    how well pixels can be predicted from their neighbours (Nalisnick et al.,
    2019, https://arxiv.org/abs/1810.09136).

    Args:
        model: a `Glow`.
        images: `(batch, height, width, channels)`, as of `Glow.log_prob`.
        method: the score, all of them in bits/dim, or nats/dim of floats:

            - `"complexity"`: bits under the model minus bits of the image as a
              lossless PNG file. It tells how much worse the model predicts the
              image than a program that knows no images in particular. Not for
              floats.
            - `"ratio"`: bits under the model minus bits under `background`: a
              log likelihood ratio.
            - `"typicality"`: distance of the bits under the model, to either
              side, from their mean over `typical` images.
            - `"likelihood"`: bits under the model alone, for comparison.
        background: a `Glow` of the same image shape, trained on images of many
            kinds or on damaged ones; for `"ratio"` only.
        typical: images like the training images, preferably not among them; for
            `"typicality"` only.
        seed: as in `Glow.log_prob`.
        **kwargs: other arguments of `Glow.log_prob`, for `images` only.

    Returns:
        float64 array `(batch,)`.

    Raises:
        ValueError: naming the argument that is not as described.

    Reference:
        Serra et al., 2020, Input Complexity and Out-of-distribution Detection
        with Likelihood-based Generative Models,
        https://arxiv.org/abs/1909.11480; Ren et al., 2019, Likelihood Ratios
        for Out-of-Distribution Detection, https://arxiv.org/abs/1906.02845;
        Nalisnick et al., 2019, Detecting Out-of-Distribution Inputs to Deep
        Generative Models Using Typicality, https://arxiv.org/abs/1906.02994
    """
    check_choice("method", method, METHODS)
    if method == "complexity" and model.bits is None:
        refuse("method", "another for floats, which no PNG file holds", method)
    for name, value, owner in (
        ("background", background, "ratio"),
        ("typical", typical, "typicality"),
    ):
        if (value is not None) != (method == owner):
            expected = "given" if method == owner else "None"
            refuse(name, f"{expected} for method={method!r}", value)

    def bits(model, images, **kwargs):  # or nats/dim of floats
        log_prob = model.log_prob(images, seed=seed, **kwargs)
        return -log_prob.astype("float64") / model.nats_of_one

    score = bits(model, images, **kwargs)
    if method == "complexity":
        score -= png_bits_per_dim(model, images)
    elif method == "ratio":
        score -= bits(background, images)
    elif method == "typicality":
        score = np.abs(score - bits(model, typical).mean())
    return score


def png_bits_per_dim(model, images):
    """Return the bits of a PNG file of each image, per value of the image."""
    images = model.quantize(model.dequantize(images, seed="center"))
    if images.shape[-1] != 3 or images.dtype != "uint8":
        # A PNG file holds colours of 8 bits or one channel: more of them stand
        # side by side.
        shape = (*images.shape[:2], -1, 1)
        images = images.transpose(0, 1, 3, 2).reshape(shape)
    sizes = [len(png_bytes(image, compress_level=9)) for image in images]
    return np.array(sizes) * 8 / model.dimensions

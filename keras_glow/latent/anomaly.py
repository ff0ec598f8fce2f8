"""How unlike the training images an image is, judged honestly."""

import numpy as np

from keras_glow.checks import check_choice, check_images, refuse
from keras_glow.images.grid import png_bytes

METHODS = ("complexity", "ratio", "typicality", "likelihood")


def anomaly_score(
    model,
    images,
    method="complexity",
    background=None,
    typical=None,
    seed=0,
    **kwargs,
):
    """A score that is the higher the less images are like those of training.

    Raw likelihood fails: smooth images, a constant one most of all, are more
    likely than those of the training, since likelihood is mostly about how well
    pixels can be told from their neighbours (Nalisnick et al., 2019,
    https://arxiv.org/abs/1810.09136).

    Args:
        model: a `Glow`.
        images: integers 0..255, `(batch, height, width, channels)`.
        method: what is measured, all in bits/dim:

            - `"complexity"`: bits under the model minus those of the image as
              a lossless PNG file: how much better it is understood than by a
              program that knows no images in particular.
            - `"ratio"`: bits under the model minus those under `background`: a
              log likelihood ratio.
            - `"typicality"`: how far bits under the model are from their mean
              over `typical` images, to either side.
            - `"likelihood"`: bits under the model alone. It is here to be
              compared with.
        background: a `Glow` of the same image shape, trained on images of many
            kinds or on damaged ones; for `"ratio"` alone.
        typical: images like those of training, best not trained on; for
            `"typicality"` alone.
        seed: as in `Glow.log_prob`.
        **kwargs: other arguments of `Glow.bits_per_dim`, for images alone.

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
    for name, value, owner in (
        ("background", background, "ratio"),
        ("typical", typical, "typicality"),
    ):
        if (value is not None) != (method == owner):
            expected = "given" if method == owner else "None"
            refuse(name, f"{expected} for method={method!r}", value)

    def bits(model, images, **kwargs):
        return model.bits_per_dim(images, seed=seed, **kwargs).astype("float64")

    score = bits(model, images, **kwargs)
    if method == "complexity":
        score -= _png_bits_per_dim(model, images)
    elif method == "ratio":
        score -= bits(background, images)
    elif method == "typicality":
        score = np.abs(score - bits(model, typical).mean())
    return score


def _png_bits_per_dim(model, images):
    """Bits of a PNG file of each image, for each of its values."""
    images = check_images(images, model.image_shape)
    images = model.quantize(model.dequantize(images, seed="center"))
    if images.shape[-1] != 3:
        # A PNG file holds colours or one channel: the others stand beside it.
        shape = (*images.shape[:2], -1, 1)
        images = images.transpose(0, 1, 3, 2).reshape(shape)
    sizes = [len(png_bytes(image, compress_level=9)) for image in images]
    return np.array(sizes) * 8 / model.dimensions

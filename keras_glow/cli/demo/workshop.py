"""The work of the page: takes and returns image files, by means of a model.

It keeps nothing between two calls: the page holds each face, as its image.
"""

import base64
import math

import numpy as np

from keras_glow import latent
from keras_glow.checks import check_boolean, check_seed, refuse
from keras_glow.flow.noise import standard_deviations, standard_normal
from keras_glow.flow.prediction import predict
from keras_glow.images.decoding import decode_picture
from keras_glow.images.grid import png_bytes

SAMPLES = 12  # whole rows in 2, 3, 4 and 6 columns
MAX_TEMPERATURE = 1.5
MAX_STRENGTH = 3.0
# Enough for the photographs of most telephones; decoding takes about 110 MB.
MAX_UPLOAD_PIXELS = 16_000_000


class Workshop:
    """Draws, inspects and edits faces; only one thread may ask at a time.

    Every picture that it returns is a dict of `png`, the file in base64, and
    `bits_per_dim`, a float, or None if it is not finite. A ValueError names the
    argument of a method that is not as described.

    Args:
        model: a `Glow` of square images, grey or in colour, without classes.
        name: str, what the page calls the model.
        directions: dict of names of attributes to float arrays `(D,)`.

    Raises:
        ValueError: if the model is of another kind.
    """

    def __init__(self, model, name, directions=None):
        height, width, channels = model.image_shape
        if model.num_classes is not None:
            refuse("num_classes", "None for this page", model.num_classes)
        if height != width or channels not in (1, 3):
            expected = "that of square images with 1 or 3 channels"
            refuse("image_shape", expected, model.image_shape)
        self.model = model
        self.name = name
        self.directions = dict(directions or {})

    def describe(self):
        """Returns what the page needs to know about the model, as a dict."""
        return {
            "name": self.name,
            "image_shape": list(self.model.image_shape),
            "dimensions": self.model.dimensions,
            "parameters": self.model.count_params(),
            "latents": [math.prod(s) for s in self.model.latent_shapes],
            "attributes": list(self.directions),
            "samples": SAMPLES,
            "max_temperature": MAX_TEMPERATURE,
            "max_strength": MAX_STRENGTH,
        }

    def warm_up(self):
        """Makes the backend compile everything that the page will need."""
        drawn = self.draw(0, 0.7)["pictures"]
        self.inspect(base64.b64decode(drawn[0]["png"]))
        a, b = (picture["png"] for picture in drawn[:2])
        self.edit(a, b, 0.5, False, {})

    def draw(self, seed, temperature):
        """Draws `SAMPLES` images; returns a dict of `pictures`, a list.

        `temperature` is a float 0..1.5, or one per level, finest first.
        """
        seed = check_seed(seed, or_none=False)
        shapes = self.model.latent_shapes
        deviations = standard_deviations(temperature, shapes)
        if deviations.max() > MAX_TEMPERATURE:
            refuse("temperature", f"at most {MAX_TEMPERATURE}", temperature)
        z = standard_normal((SAMPLES, self.model.dimensions), seed)
        drawn = self.model.decode(z * deviations, batch_size=SAMPLES)
        return {"pictures": self._pictures(drawn)}

    def inspect(self, content):
        """Fits the bytes of an image file to the model, encodes and decodes it.

        Returns a dict of `picture`; `decoded`, the picture that its latents
        decode to; `differing`, the number of values in which the two differ;
        `notes`, a list of str: changes to the file that may surprise.
        """
        size, _, channels = self.model.image_shape
        file = decode_picture(content, size, channels, MAX_UPLOAD_PIXELS)
        face = self._quantized(file.pixels[None])
        z = self.model.encode(face, batch_size=SAMPLES)
        decoded = self.model.decode(z, batch_size=SAMPLES)
        picture, again = self._pictures(np.concatenate([face, decoded]))
        return {
            "picture": picture,
            "decoded": again,
            "differing": int(np.sum(face != decoded)),
            "notes": file.notes,
        }

    def edit(self, a, b, share, spherical, strengths):
        """Blends two faces, and moves the blend along directions.

        Args:
            a: str, a face as the other methods return it, PNG in base64.
            b: str, another face in the same form.
            share: float 0..1, of b.
            spherical: bool, see `keras_glow.latent.interpolate`.
            strengths: dict of names of attributes to floats -3..3, or none.

        Returns:
            Dict of `picture`; `differing`, a list of two: the number of values
            in which it differs from a, and from b.
        """
        faces = np.stack([self._face("a", a), self._face("b", b)])
        faces = self._quantized(faces)
        share = _number("share", share, 0, 1)
        spherical = check_boolean("spherical", spherical)
        change = self._change(strengths)
        ends = self.model.encode(faces, batch_size=SAMPLES)
        z = latent.interpolate(ends, [share], spherical) + change
        edited = self.model.decode(z, batch_size=SAMPLES)
        (picture,) = self._pictures(edited)
        differing = np.sum(faces != edited, axis=(1, 2, 3))
        return {"picture": picture, "differing": differing.tolist()}

    def _change(self, strengths):
        """Returns the sum of the directions times their strengths, `(D,)`."""
        change = np.zeros(self.model.dimensions, "float32")
        if not isinstance(strengths, dict):
            refuse("strengths", "a number for each name", strengths)
        for name, strength in strengths.items():
            if name not in self.directions:
                names = ", ".join(self.directions) or "none, without directions"
                refuse("strengths", f"of these: {names}", name)
            strength = _number(name, strength, -MAX_STRENGTH, MAX_STRENGTH)
            change += np.float32(strength) * self.directions[name]
        return change

    def _face(self, name, png):
        """Returns the pixels of a face that the page sends back."""
        height, width, channels = self.model.image_shape
        expected = f"a {width}x{height} PNG file in base64"
        try:
            content = base64.b64decode(png, validate=True)
            file = decode_picture(content, None, channels, height * width)
        except (TypeError, ValueError):
            refuse(name, expected, png)
        if file.pixels.shape != self.model.image_shape:
            refuse(name, expected, file.pixels)
        return file.pixels

    def _quantized(self, images):
        """Rounds images to the grey levels of the model."""
        centers = self.model.dequantize(images, seed="center")
        return self.model.quantize(centers)

    def _pictures(self, images):
        # Unlike in `Glow.bits_per_dim` all images have the same noise, so that
        # equal images have equal values.
        x = [self.model.dequantize(image[None], seed=0) for image in images]
        x = np.concatenate(x)
        nats = predict(self.model.scorer, x, None, len(x))
        bits = self.model.bits - nats / (self.model.dimensions * math.log(2))
        return [
            {
                "png": base64.b64encode(png_bytes(image)).decode(),
                "bits_per_dim": float(value) if np.isfinite(value) else None,
            }
            for image, value in zip(images, bits, strict=True)
        ]


def _number(name, value, low, high):
    """Returns a number within limits as a float."""
    if type(value) not in (int, float) or not low <= value <= high:
        refuse(name, f"a number {low}..{high}", value)
    return float(value)

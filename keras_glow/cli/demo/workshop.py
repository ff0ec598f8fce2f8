"""The work of the page: takes and returns image files, by means of a model.

It keeps nothing between two calls: the page holds each image.
"""

import base64
import math

import numpy as np
from PIL import Image

from keras_glow import latent
from keras_glow.checks import (
    check_boolean,
    check_labels,
    check_seed,
    refuse,
)
from keras_glow.flow.noise import standard_deviations, standard_normal
from keras_glow.flow.prediction import predict
from keras_glow.images.decoding import Form, decode_picture
from keras_glow.images.grid import image_grid, png_bytes

SAMPLES = 12  # whole rows in 2, 3, 4 and 6 columns
MAX_TEMPERATURE = 1.5
MAX_STRENGTH = 3.0
# Enough for the photographs of most telephones; decoding takes about 110 MB.
MAX_UPLOAD_PIXELS = 16_000_000
PREVIEW = 480  # pixels of the longer side of an upload, as the page shows it
ENLARGED = 512  # pixels that a result is enlarged to, about


class Workshop:
    """Draws, inspects and edits images; only one thread may ask at a time.

    Every picture that it returns is a dict of `png`, the file in base64,
    `bits_per_dim`, a float, or None if it is not finite, and `label`, its
    class, or None without classes. A ValueError names the argument of a method
    that is not as described.

    Args:
        model: a `Glow` of square images, grey or in colour.
        name: str, what the page calls the model.
        directions: dict of names of attributes to float arrays `(D,)`.
        classes: list of str, the names of its classes; None numbers them.

    Raises:
        ValueError: if the model is of another kind.
    """

    def __init__(self, model, name, directions=None, classes=None):
        height, width, channels = model.image_shape
        if height != width or channels not in (1, 3):
            expected = "that of square images with 1 or 3 channels"
            refuse("image_shape", expected, model.image_shape)
        if model.context_shape:
            refuse("context_shape", "None for the page", model.context_shape)
        if model.bits is None or model.bits > 8:
            refuse("bits", "1..8, of images that a page shows", model.bits)
        self.model = model
        self.name = name
        self.directions = dict(directions or {})
        count = model.num_classes or 0
        self.classes = list(map(str, classes or range(count)))
        if len(self.classes) != count:
            refuse("classes", f"{count} names", classes)

    def describe(self):
        """Returns what the page needs to know about the model, as a dict."""
        return {
            "name": self.name,
            "image_shape": list(self.model.image_shape),
            "dimensions": self.model.dimensions,
            "parameters": self.model.count_params(),
            "latents": [math.prod(s) for s in self.model.latent_shapes],
            "attributes": list(self.directions),
            "classes": self.classes,
            "samples": SAMPLES,
            "max_temperature": MAX_TEMPERATURE,
            "max_strength": MAX_STRENGTH,
        }

    def warm_up(self):
        """Makes the backend compile everything that the page will need."""
        drawn = self.draw(0, 0.7, None)["pictures"]
        label = drawn[0]["label"]
        self.inspect(base64.b64decode(drawn[0]["png"]), None, label)
        a, b = (picture["png"] for picture in drawn[:2])
        labels = None if label is None else [label] * 3
        self.edit(a, b, labels, 0.5, False, {})

    def draw(self, seed, temperature, label):
        """Draws `SAMPLES` images; returns a dict of `pictures`, a list.

        `temperature` is a float 0..1.5, or one per level, finest first. `label`
        is the class, an int, or None for each in its turn.
        """
        seed = check_seed(seed, or_none=False)
        shapes = self.model.latent_shapes
        deviations = standard_deviations(temperature, shapes)
        if deviations.max() > MAX_TEMPERATURE:
            refuse("temperature", f"at most {MAX_TEMPERATURE}", temperature)
        labels = None if label is None else [label] * SAMPLES
        if label is None and self.classes:
            labels = np.arange(SAMPLES) % len(self.classes)
        labels = self._labels(labels, SAMPLES)
        z = standard_normal((SAMPLES, self.model.dimensions), seed)
        drawn = self.model.decode(z * deviations, labels, SAMPLES)
        return {"pictures": self._pictures(drawn, labels)}

    def inspect(self, content, crop, label):
        """Fits the bytes of an image file to the model, encodes and decodes it.

        Args:
            content: bytes.
            crop: list of ints, left, top and side of the square to take, in
                pixels of the upright picture; None for that in its middle.
            label: int, the class of the image; None without classes.

        Returns:
            Dict of `picture`; `decoded`, the picture that its latents decode
            to; `differing`, the number of values in which the two differ;
            `notes`, a list of str: changes to the file that may surprise;
            `whole`, what there is to crop: a dict of `png`, `width` and
            `height`, None with a crop or if the file has the size of the model.
        """
        size, _, channels = self.model.image_shape
        if crop is not None and not (
            isinstance(crop, list)
            and len(crop) == 3
            and all(type(number) is int for number in crop)
        ):
            refuse("crop", "three integers, or none", crop)
        labels = self._labels(None if label is None else [label], 1)
        form = Form(size, channels)
        file = decode_picture(content, form, MAX_UPLOAD_PIXELS, crop)
        side = min(file.size) if crop is None else crop[2]
        notes = list(file.notes)
        if side < size:
            notes.append(f"is enlarged from {side} to {size} pixels")
        image = self._quantized(file.pixels[None])
        z = self.model.encode(image, labels, SAMPLES)
        decoded = self.model.decode(z, labels, SAMPLES)
        picture, again = self._pictures(
            np.concatenate([image, decoded]),
            None if labels is None else labels.repeat(2),
        )
        whole = None
        if crop is None and file.size != (size, size):
            whole = _preview(content)
        return {
            "picture": picture,
            "decoded": again,
            "differing": int(np.sum(image != decoded)),
            "notes": notes,
            "whole": whole,
        }

    def edit(self, a, b, labels, share, spherical, strengths):
        """Blends two images, and moves the blend along directions.

        Args:
            a: str, an image as the other methods return it, PNG in base64.
            b: str, another image in the same form.
            labels: list of the classes of a, of b and of the result; None
                without classes.
            share: float 0..1, of b.
            spherical: bool, see `keras_glow.latent.interpolate`.
            strengths: dict of names of attributes to floats -3..3, or none.

        Returns:
            Dict of `picture`; `enlarged`, a PNG file of it in base64 with
            larger pixels; `differing`, a list of two: the number of values in
            which it differs from a, and from b.
        """
        images = np.stack([self._image("a", a), self._image("b", b)])
        images = self._quantized(images)
        labels = self._labels(labels, 3)
        of_ends, of_result = (
            (None, None) if labels is None else (labels[:2], labels[2:])
        )
        share = _number("share", share, 0, 1)
        spherical = check_boolean("spherical", spherical)
        change = self._change(strengths)
        ends = self.model.encode(images, of_ends, SAMPLES)
        z = latent.interpolate(ends, [share], spherical) + change
        edited = self.model.decode(z, of_result, SAMPLES)
        (picture,) = self._pictures(edited, of_result)
        differing = np.sum(images != edited, axis=(1, 2, 3))
        scale = max(1, ENLARGED // self.model.image_shape[0])
        return {
            "picture": picture,
            "enlarged": _base64(image_grid(edited, padding=0, scale=scale)),
            "differing": differing.tolist(),
        }

    def _labels(self, labels, count):
        """Returns classes as an array, or None for a model without classes."""
        return check_labels(labels, count, self.model.num_classes)

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

    def _image(self, name, png):
        """Returns the pixels of an image that the page sends back."""
        height, width, channels = self.model.image_shape
        expected = f"a {width}x{height} PNG file in base64"
        try:
            content = base64.b64decode(png, validate=True)
            file = decode_picture(content, Form(None, channels), height * width)
        except (TypeError, ValueError):
            refuse(name, expected, png)
        if file.pixels.shape != self.model.image_shape:
            refuse(name, expected, file.pixels)
        return file.pixels

    def _quantized(self, images):
        """Rounds images to the grey levels of the model."""
        centers = self.model.dequantize(images, seed="center")
        return self.model.quantize(centers)

    def _pictures(self, images, labels):
        # Unlike in `Glow.bits_per_dim` all images have the same noise, so that
        # equal images have equal values.
        x = [self.model.dequantize(image[None], seed=0) for image in images]
        x = np.concatenate(x)
        given = () if labels is None else (labels,)
        nats = predict(self.model.scorer, x, given, len(x))
        bits = self.model.bits - nats / (self.model.dimensions * math.log(2))
        labels = [None] * len(x) if labels is None else labels.tolist()
        return [
            {
                "png": _base64(image),
                "bits_per_dim": float(value) if np.isfinite(value) else None,
                "label": label,
            }
            for image, value, label in zip(images, bits, labels, strict=True)
        ]


def _base64(image):
    """Returns a PNG file of an image in base64."""
    return base64.b64encode(png_bytes(image)).decode()


def _preview(content):
    """Returns an upright picture of an image file, and its size there."""
    pixels = decode_picture(content, max_pixels=MAX_UPLOAD_PIXELS).pixels
    height, width, _ = pixels.shape
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW, PREVIEW))
    return {
        "png": _base64(np.asarray(image)),
        "width": width,
        "height": height,
    }


def _number(name, value, low, high):
    """Returns a number within limits as a float."""
    if type(value) not in (int, float) or not low <= value <= high:
        refuse(name, f"a number {low}..{high}", value)
    return float(value)

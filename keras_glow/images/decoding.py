"""Decodes one image file: by its content, within limits, without guessing."""

import contextlib
import functools
import hashlib
import io
import os
import stat
import typing

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_glow.checks import one_line

# Told by content, whatever the name says. Pillow's rarer formats stay out: most
# of its security bugs are there.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
SUFFIXES = (
    *(".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff"),
    ".webp",
)
# The brands that begin a file of the ISO base media format, bytes 8 to 11.
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
AVIF = (b"avif", b"avis")
MAX_PIXELS = 64_000_000
# A JPEG may be decoded at a fraction of its size, as long as that is this many
# times the size asked for: Pillow calls 3 almost indistinguishable.
REDUCING_GAP = 3
# Possible white levels of 32-bit images. The file does not say which is meant,
# so the smallest one that covers the data is taken; a larger one would turn the
# image black.
WHITE_LEVELS = {"F": (1, 255, 65_535), "I": (1, 255, 65_535, 2**31 - 1)}


class BadImage(ValueError):
    """A file that cannot be used. Says why, as a verb phrase, not which."""


class NotAnImage(BadImage):
    """The content has none of `IMAGE_FORMATS`."""


class Form(typing.NamedTuple):
    """The array that an image file is to become, see `load_images`."""

    size: int | None = None  # height and width to crop and resize to
    channels: int = 3  # or 1 for grey
    bits: int = 8  # with more see `deep_pixels`
    upscale: bool = False  # whether it may be smaller


AS_IT_IS = Form()


class Picture(typing.NamedTuple):
    """The content of an image file."""

    pixels: np.ndarray  # (height, width, channels), uint8 up to 8 bits
    size: tuple  # (width, height) in the file
    format: str  # Pillow's name of the format
    notes: list  # of str, changes to it that may surprise
    digest: bytes  # sha256 of the file


def file_identity(status):
    """Return those parts of an `os.stat` that change when a file does."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_picture(path, form=AS_IT_IS, expected=None):
    """Read a regular file as a `Picture`, or raise a `BadImage`.

    It is turned upright as its EXIF data say; for the rest see `fit_pixels`.
    `expected` is the `file_identity` that the file should have, if known.
    """

    def opener(path, flags):
        # Opening a FIFO would wait for somebody to write to it.
        return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))

    with _bad_image_on_error(), open(path, "rb", opener=opener) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("is not a regular file")
        if expected not in (None, file_identity(status)):
            raise BadImage("has changed since it was found")
        picture = _read(file, form)
        if file_identity(os.fstat(file.fileno())) != file_identity(status):
            raise BadImage("has changed while it was read")
    return picture


def decode_picture(content, form=AS_IT_IS, max_pixels=MAX_PIXELS, crop=None):
    """Read the bytes of an image file: see `read_picture`.

    `crop` is left, top and side of a square to take, in pixels of the upright
    picture, ints; or None for that in the middle.
    """
    with _bad_image_on_error():
        return _read(io.BytesIO(content), form, max_pixels, crop)


@contextlib.contextmanager
def _bad_image_on_error():
    """Turn any error into a `BadImage`."""
    try:
        yield
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage("does not exist (any more)") from None
    except UnidentifiedImageError:
        formats = ", ".join(IMAGE_FORMATS)
        raise NotAnImage(f"is not an image ({formats})") from None
    except Image.DecompressionBombError:
        raise BadImage(_too_large(MAX_PIXELS)) from None
    except Exception as error:
        # Pillow reports damage by many types of exception.
        reason = getattr(error, "strerror", None) or one_line(error)
        raise BadImage(f"cannot be read: {reason}") from error


@functools.cache
def _formats():
    """Return `IMAGE_FORMATS`, and that of HEIC where pillow-heif is there."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return IMAGE_FORMATS
    register_heif_opener()
    return (*IMAGE_FORMATS, "HEIF")


def _check_head(head):
    """Refuse what begins as no file that is read, and say what it is."""
    if not head:
        raise NotAnImage("is empty")
    brand = head[8:] if head[4:8] == b"ftyp" else None
    if brand in HEIC and "HEIF" not in _formats():
        raise BadImage("is a HEIC picture, read with `pip install pillow-heif`")
    if brand in AVIF:
        raise BadImage("is an AVIF picture, to be converted to PNG or JPEG")


def _read(file, form, max_pixels=MAX_PIXELS, crop=None):
    _check_head(file.read(12))
    file.seek(0)
    with Image.open(file, formats=_formats()) as image:
        about = image.size, image.format
        pixels, notes = _decode(image, form, max_pixels, crop)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    return Picture(pixels, *about, notes, digest)


def _decode(image, form, max_pixels, crop):
    size = form.size
    width, height = image.size  # The header holds it; nothing is decoded yet.
    if width * height > max_pixels:
        raise BadImage(_too_large(max_pixels))
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("holds several frames: the first is taken")
    whole = size is not None and crop is None
    if whole and image.format in ("JPEG", "MPO"):
        image.draft(None, (REDUCING_GAP * size, REDUCING_GAP * size))
    ImageOps.exif_transpose(image, in_place=True)
    if crop is not None:
        image = _cropped(image, *crop)
    if form.bits > 8:
        return deep_pixels(image, size, form.bits), notes
    pixels, more_notes = fit_pixels(image, size, form.channels)
    return pixels, notes + more_notes


def _cropped(image, left, top, side):
    width, height = image.size
    if not (
        0 <= left <= width - side and 0 <= top <= height - side and side > 0
    ):
        raise BadImage(
            f"is {width}x{height}: it holds no square of {side} pixels at "
            f"({left}, {top})"
        )
    return image.crop((left, top, left + side, top + side))


def _too_large(max_pixels):
    return f"is too large: over {max_pixels / 10**6:g} million pixels"


def fit_pixels(image, size, channels):
    """Convert a PIL image to an array of the size asked for.

    It is cropped to a centred square, resized with antialiasing, and laid on
    white where it is transparent. Values of more than 8 bits are scaled, or a
    `BadImage` is raised if they do not say which is white.

    Returns the `pixels` and `notes` of a `Picture`.
    """
    notes = []
    width, height = image.size
    if size is not None and max(width, height) > 2 * min(width, height):
        notes.append(f"is {width}x{height}: its middle square is taken")
    if image.mode.startswith("I;16") or image.mode in WHITE_LEVELS:
        image, white_level = _eight_bits(image)
        notes.append(
            f"has values of more than 8 bits: scaled from 0..{white_level}"
        )
    opaque_mode = "RGB" if channels == 3 else "L"
    transparent = image.has_transparency_data
    image = image.convert("RGBA" if transparent else opaque_mode)
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    if transparent:
        if image.getextrema()[3][0] < 255:
            notes.append("is transparent: laid on white")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert(opaque_mode)
    width, height = image.size
    return np.asarray(image).reshape(height, width, channels), notes


def deep_pixels(image, size, bits):
    """Convert a grey PIL image of more than 8 bits to an array, uint16.

    Its values stay as they are; it is cropped and resized as by `fit_pixels`.
    """
    high = 2**bits - 1
    if not (image.mode.startswith("I;16") or image.mode == "I"):
        raise BadImage(
            f"is expected to be grey with more than 8 bits, for bits={bits}, "
            f"and is of mode {image.mode}"
        )
    values = np.asarray(image).astype("float32")
    if values.min() < 0 or values.max() > high:
        raise BadImage(
            f"has values from {values.min():g} to {values.max():g}: expected "
            f"0..{high}, for bits={bits}"
        )
    if size is not None and image.size != (size, size):
        image = Image.fromarray(values)
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        values = np.asarray(image)
    return np.rint(np.clip(values, 0, high)).astype("uint16")[..., None]


def _eight_bits(image):
    """Convert a grey image of more than 8 bits; return it and its white level.

    Pillow would clip the values instead of scaling them.
    """
    values = np.asarray(image).astype("float64")
    if image.mode in WHITE_LEVELS:
        low, high = values.min(), values.max()
        levels = [level for level in WHITE_LEVELS[image.mode] if high <= level]
        if not levels or not low >= 0:
            raise BadImage(
                f"has values from {low:g} to {high:g}: expected from 0 to one "
                f"of {', '.join(map(str, WHITE_LEVELS[image.mode]))}"
            )
        white_level = levels[0]
    else:
        white_level = 65_535
        # One grey value of a PNG may stand for transparent.
        values[values == image.info.get("transparency")] = white_level
    scaled = np.rint(values * (255 / white_level)).astype("uint8")
    return Image.fromarray(scaled), white_level

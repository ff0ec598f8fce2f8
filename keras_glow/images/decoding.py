"""One image file to pixels: by its content, within limits, never guessing."""

import contextlib
import hashlib
import io
import os
import stat
import typing

import numpy as np

# By content, whatever the name says. Pillow's rarer formats stay out: that is
# where most of its security bugs are.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
MAX_PIXELS = 64_000_000
# A JPEG may be decoded at a fraction of its size, as long as that is so many
# times the size asked for: Pillow calls 3 almost indistinguishable.
REDUCING_GAP = 3
# What integers and floats of 32 bits go up to: no file says which of these. An
# image that stays below one would be black in the next.
RANGES = {"F": (1, 255, 65_535), "I": (1, 255, 65_535, 2**31 - 1)}


class BadImage(ValueError):
    """A file that cannot be used. Says why, as a verb phrase, not which."""


class NotAnImage(BadImage):
    """The content is none of `FORMATS`."""


class Picture(typing.NamedTuple):
    """What an image file holds.

    Attributes:
        pixels: uint8 array `(height, width, channels)`.
        size: (width, height) in the file.
        format: str, Pillow's name of the format.
        notes: list of str, what was done to it that may surprise.
        digest: bytes, sha256 of the file.
    """

    pixels: np.ndarray
    size: tuple
    format: str
    notes: list
    digest: bytes


def identity(status):
    """What changes with a file, of its `os.stat`."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_picture(path, size=None, channels=3, expected=None):
    """Reads an image file.

    It is turned upright as its EXIF data say; for the rest see `fit_pixels`.

    Args:
        path: of a regular file; from anything else nothing is read.
        size: int, height and width to crop and resize to; None to keep those
            of the file.
        channels: 3 for colour or 1 for grey.
        expected: the `identity` that the file should have, if known.

    Returns:
        A `Picture`.

    Raises:
        BadImage: if it cannot be used.
    """
    with _refusing(), open(path, "rb", opener=_open) as file:
        before = os.fstat(file.fileno())
        if not stat.S_ISREG(before.st_mode):
            raise BadImage("is not a regular file")
        if expected not in (None, identity(before)):
            raise BadImage("has changed since it was found")
        picture = _read(file, size, channels, MAX_PIXELS)
        if identity(os.fstat(file.fileno())) != identity(before):
            raise BadImage("has changed while it was read")
    return picture


def decode_picture(content, size=None, channels=3, max_pixels=MAX_PIXELS):
    """Reads an image file that is in memory.

    Args:
        content: bytes.
        size: see `read_picture`; so are the others.
        channels: 3 or 1.
        max_pixels: int, how many the file may have.

    Returns:
        A `Picture`.

    Raises:
        BadImage: if it cannot be used.
    """
    with _refusing():
        return _read(io.BytesIO(content), size, channels, max_pixels)


@contextlib.contextmanager
def _refusing():
    """Whatever goes wrong inside is a `BadImage`."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage("does not exist (any more)") from None
    except UnidentifiedImageError:
        raise NotAnImage(f"is not an image ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise BadImage(_too_large(MAX_PIXELS)) from None
    except Exception as error:
        # Pillow reports damage by many types of exception.
        reason = getattr(error, "strerror", None) or str(error)
        reason = " ".join(reason.split()) or type(error).__name__
        raise BadImage(f"cannot be read: {reason}") from error


def _read(file, size, channels, max_pixels):
    from PIL import Image

    if not file.read(1):
        raise NotAnImage("is empty")
    file.seek(0)
    with Image.open(file, formats=FORMATS) as image:
        about = image.size, image.format
        pixels, notes = _decode(image, size, channels, max_pixels)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").digest()
    return Picture(pixels, *about, notes, digest)


def _open(path, flags):
    # Opening a FIFO would wait for somebody to write to it.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decode(image, size, channels, max_pixels):
    from PIL import ImageOps

    width, height = image.size  # from the header: nothing is decoded yet
    if width * height > max_pixels:
        raise BadImage(_too_large(max_pixels))
    notes = []
    if getattr(image, "is_animated", False):
        notes.append("holds several frames: the first is taken")
    if size is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (REDUCING_GAP * size, REDUCING_GAP * size))
    ImageOps.exif_transpose(image, in_place=True)
    pixels, more = fit_pixels(image, size, channels)
    return pixels, notes + more


def _too_large(max_pixels):
    return f"is too large: over {max_pixels / 10**6:g} million pixels"


def fit_pixels(image, size, channels):
    """A PIL image as an array of the size asked for.

    It is cropped to a centred square, resized with antialiasing, and laid on
    white where it is transparent. Values of more than 8 bits are scaled.

    Args:
        image: PIL image.
        size: int, or None to keep height and width.
        channels: 3 for colour or 1 for grey.

    Returns:
        Tuple of pixels and notes, see `Picture`.

    Raises:
        BadImage: if its values do not say what is black and what is white.
    """
    from PIL import Image, ImageOps

    notes = []
    width, height = image.size
    if size is not None and max(width, height) > 2 * min(width, height):
        notes.append(f"is {width}x{height}: its middle square is taken")
    if image.mode.startswith("I;16") or image.mode in RANGES:
        image, top = _eight_bits(image)
        notes.append(f"has values of more than 8 bits: scaled from 0..{top}")
    opaque = "RGB" if channels == 3 else "L"
    transparent = image.has_transparency_data
    image = image.convert("RGBA" if transparent else opaque)
    if size is not None and image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    if transparent:
        if image.getextrema()[3][0] < 255:
            notes.append("is transparent: laid on white")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert(opaque)
    width, height = image.size
    return np.asarray(image).reshape(height, width, channels), notes


def _eight_bits(image):
    """A grey image of more than 8 bits as one of 8, and its highest value.

    Pillow would clip the values instead of scaling them.
    """
    from PIL import Image

    values = np.asarray(image).astype("float64")
    if image.mode in RANGES:
        low, high = values.min(), values.max()
        tops = [top for top in RANGES[image.mode] if high <= top]
        if not tops or not low >= 0:
            raise BadImage(
                f"has values from {low:g} to {high:g}: expected from 0 to one "
                f"of {', '.join(map(str, RANGES[image.mode]))}"
            )
        top = tops[0]
    else:
        top = 65_535
        # One grey value of a PNG may stand for transparent.
        values[values == image.info.get("transparency")] = top
    return Image.fromarray(np.rint(values * (255 / top)).astype("uint8")), top

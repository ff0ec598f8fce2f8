"""Image files of every kind, made in memory, and what is to become of each."""

import io
import struct
import zlib

import numpy as np
from helpers import random_images, turned_by_exif
from PIL import Image

SIZE = 12
FACE = random_images(1, (SIZE, SIZE, 3))[0]
GREY = FACE[..., 0]
RAMP = np.linspace(0, 1, SIZE * SIZE).reshape(SIZE, SIZE)
LEVELS = np.rint(255 * RAMP).astype("uint8")  # the same in 8 bits


def encoded(image, format="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def colours(levels):
    return np.repeat(levels[..., None], 3, axis=-1)


# What may be said of a file. Each gives the pixels expected, or None, after it
# has compared the report.


class Good:
    """Used as `pixels`, without a word or with a note that holds `note`."""

    def __init__(self, pixels, note=None, tolerance=1):
        self.pixels, self.note, self.tolerance = pixels, note, tolerance

    def check(self, name, loaded, report):
        assert report.images == 1 and not report.bad and not report.skipped
        difference = loaded[0].astype(int) - self.pixels
        assert np.abs(difference).max() <= self.tolerance
        if self.note is None:
            assert not report.notes
        else:
            ((where, note),) = report.notes
            assert where == name and self.note in note


class Bad:
    def __init__(self, reason):
        self.reason = reason

    def check(self, name, loaded, report):
        assert not len(loaded)
        ((where, reason),) = report.bad
        assert where == name and self.reason in reason
        assert not report.skipped and not report.others


class Skipped(Bad):
    def check(self, name, loaded, report):
        assert not len(loaded)
        ((where, reason),) = report.skipped
        assert where == name and self.reason in reason
        assert not report.bad and not report.others


class Ignored:
    def __init__(self, others):
        self.others = others

    def check(self, name, loaded, report):
        assert not len(loaded) and report.others == self.others
        assert not report.bad and not report.skipped


def turned(orientation):
    """A PNG stored so that `orientation` shows it upright."""
    image = Image.fromarray(FACE)
    image, exif = turned_by_exif(image, orientation)
    return encoded(image, exif=exif)


def bomb(width, height):
    """A PNG that declares a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR" + header, b"IDAT" + zlib.compress(b"\0"), b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
        for c in chunks
    )


def frames(format, **options):
    first, second = Image.fromarray(FACE), Image.fromarray(255 - FACE)
    return encoded(
        first, format, save_all=True, append_images=[second], **options
    )


def with_alpha(mode):
    """Opaque above, half transparent below; and how it looks on white."""
    alpha = np.full((SIZE, SIZE), 255, "uint8")
    alpha[SIZE // 2 :] = 128
    weight = alpha[..., None] / 255
    if mode == "LA":
        image = Image.fromarray(np.dstack([GREY, alpha]), "LA")
        return image, colours(GREY) * weight + 255 * (1 - weight)
    image = Image.fromarray(np.dstack([FACE, alpha]), "RGBA")
    return image, FACE * weight + 255 * (1 - weight)


def palette(transparent):
    """Eight colours, one of them transparent if asked; and how it looks."""
    index = (np.arange(SIZE * SIZE) % 8).reshape(SIZE, SIZE).astype("uint8")
    table = np.random.default_rng(0).integers(0, 256, (8, 3), dtype="uint8")
    image = Image.fromarray(index, "P")
    image.putpalette(table.tobytes())
    if not transparent:
        return encoded(image), table[index]
    looks = table[index]
    looks[index == 3] = 255
    return encoded(image, transparency=3), looks


def cmyk():
    """A CMYK JPEG, as plain Pillow shows it."""
    content = encoded(
        Image.fromarray(FACE).convert("CMYK"), "JPEG", quality=100
    )
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        return content, np.asarray(image.convert("RGB"))


def ycck():
    """A CMYK JPEG whose Adobe marker says YCCK; as plain Pillow shows it."""
    content, _ = cmyk()
    start = content.index(b"Adobe") + 11
    content = content[:start] + b"\2" + content[start + 1 :]
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK" and image.info["adobe_transform"] == 2
        return content, np.asarray(image.convert("RGB"))


def jpeg(**options):
    content = encoded(FACE, "JPEG", quality=95, **options)
    with Image.open(io.BytesIO(content)) as image:
        return content, np.asarray(image)


def wide(width, height):
    """Black, but for what is well beyond the middle square."""
    image = np.full((height, width, 3), 255, "uint8")
    side = min(width, height)
    rows, columns = (max(0, (n - side) // 2 - 4) for n in (height, width))
    image[rows : height - rows, columns : width - columns] = 0
    return encoded(image)


PNG = encoded(FACE)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
BLACK = np.zeros((SIZE, SIZE, 3), "uint8")
JPEG, JPEG_PIXELS = jpeg()
PROGRESSIVE, PROGRESSIVE_PIXELS = jpeg(progressive=True)
CMYK, CMYK_PIXELS = cmyk()
YCCK, YCCK_PIXELS = ycck()
PALETTE, PALETTE_PIXELS = palette(transparent=False)
CLEAR_PALETTE, CLEAR_PALETTE_PIXELS = palette(transparent=True)
RGBA, RGBA_PIXELS = with_alpha("RGBA")
LA, LA_PIXELS = with_alpha("LA")
DEEP = np.rint(65535 * RAMP)
ONE_BIT = Image.fromarray(GREY > 128)

# Name of the file, its content, what becomes of it.
FILES = [
    ("plain.png", PNG, Good(FACE, tolerance=0)),
    ("plain.bmp", encoded(FACE, "BMP"), Good(FACE, tolerance=0)),
    ("plain.tif", encoded(FACE, "TIFF"), Good(FACE, tolerance=0)),
    (
        "packed.tiff",
        encoded(FACE, "TIFF", compression="tiff_lzw"),
        Good(FACE, tolerance=0),
    ),
    (
        "plain.webp",
        encoded(FACE, "WEBP", lossless=True),
        Good(FACE, tolerance=0),
    ),
    ("plain.jpg", JPEG, Good(JPEG_PIXELS)),
    ("progressive.jpeg", PROGRESSIVE, Good(PROGRESSIVE_PIXELS)),
    ("CAPITALS.PNG", PNG, Good(FACE, tolerance=0)),
    # Modes
    ("grey.png", encoded(GREY), Good(colours(GREY), tolerance=0)),
    ("one_bit.png", encoded(ONE_BIT), Good(colours(255 * (GREY > 128)))),
    ("palette.png", PALETTE, Good(PALETTE_PIXELS, tolerance=0)),
    ("cmyk.jpg", CMYK, Good(CMYK_PIXELS, tolerance=0)),
    ("ycck.jpg", YCCK, Good(YCCK_PIXELS, tolerance=0)),
    (
        "cmyk.tif",
        encoded(Image.fromarray(FACE).convert("CMYK"), "TIFF"),
        Good(FACE),
    ),
    # More than 8 bits
    (
        "16_bits.png",
        encoded(DEEP.astype("uint16")),
        Good(colours(LEVELS), "from 0..65535"),
    ),
    (
        "16_bits.tif",
        encoded(DEEP.astype("uint16"), "TIFF"),
        Good(colours(LEVELS), "from 0..65535"),
    ),
    (
        "16_bits_in_32.tif",
        encoded(DEEP.astype("int32"), "TIFF"),
        Good(colours(LEVELS), "from 0..65535"),
    ),
    (
        "8_bits_in_32.tif",
        encoded(LEVELS.astype("int32"), "TIFF"),
        Good(colours(LEVELS), "from 0..255"),
    ),
    (
        "32_bits.tif",
        encoded(np.rint((2**31 - 1) * RAMP).astype("int32"), "TIFF"),
        Good(colours(LEVELS), "from 0..2147483647"),
    ),
    (
        "float.tif",
        encoded(RAMP.astype("float32"), "TIFF"),
        Good(colours(LEVELS), "from 0..1"),
    ),
    (
        "float_255.tif",
        encoded(LEVELS.astype("float32"), "TIFF"),
        Good(colours(LEVELS), "from 0..255"),
    ),
    (
        "float_negative.tif",
        encoded((RAMP - 0.5).astype("float32"), "TIFF"),
        Bad("has values from -0.5 to 0.5"),
    ),
    (
        "float_nan.tif",
        encoded(np.where(RAMP > 0.5, np.nan, RAMP).astype("float32"), "TIFF"),
        Bad("has values from nan"),
    ),
    # Transparency
    ("rgba.png", encoded(RGBA), Good(RGBA_PIXELS, "laid on white")),
    ("la.png", encoded(LA), Good(LA_PIXELS, "laid on white")),
    (
        "rgba.webp",
        encoded(RGBA, "WEBP", lossless=True),
        Good(RGBA_PIXELS, "laid on white"),
    ),
    (
        "palette_clear.png",
        CLEAR_PALETTE,
        Good(CLEAR_PALETTE_PIXELS, "laid on white"),
    ),
    (
        "opaque.png",
        encoded(np.dstack([FACE, np.full_like(GREY, 255)])),
        Good(FACE, tolerance=0),
    ),
    # Several frames
    (
        "animation.gif",
        encoded(
            Image.fromarray(GREY),
            "GIF",
            save_all=True,
            append_images=[Image.fromarray(255 - GREY)],
        ),
        Good(colours(GREY), "the first is taken"),
    ),
    (
        "animation.png",
        frames("PNG"),
        Good(FACE, "the first is taken", tolerance=0),
    ),
    (
        "animation.webp",
        frames("WEBP", lossless=True),
        Good(FACE, "the first is taken", tolerance=0),
    ),
    (
        "pages.tif",
        frames("TIFF"),
        Good(FACE, "the first is taken", tolerance=0),
    ),
    # Shapes and sizes
    ("wide.png", wide(36, 24), Good(BLACK)),
    ("very_wide.png", wide(60, 24), Good(BLACK, "is 60x24: its middle")),
    ("very_high.png", wide(24, 60), Good(BLACK, "is 24x60: its middle")),
    ("small.png", encoded(FACE[:8]), Bad("is 12x8: smaller than 12x12")),
    ("one_pixel.png", encoded(FACE[:1, :1]), Bad("is 1x1: smaller")),
    ("bomb.png", bomb(12000, 12000), Bad("over 64 million pixels")),
    ("huge_bomb.png", bomb(100000, 100000), Bad("over 64 million pixels")),
    ("long_bomb.png", bomb(64_000_001, 1), Bad("over 64 million pixels")),
    # Content and name
    ("png_named.jpg", PNG, Good(FACE, tolerance=0)),
    ("jpeg_named.png", JPEG, Good(JPEG_PIXELS)),
    ("png_named.dat", PNG, Good(FACE, "by its content", tolerance=0)),
    ("no_suffix", PNG, Good(FACE, "by its content", tolerance=0)),
    ("raw_photo.dng", encoded(FACE, "TIFF"), Ignored(others=1)),
    ("text.jpg", b"no image, just text", Bad("is not an image")),
    ("page.jpg", b"<!doctype html><title>404</title>", Bad("not an image")),
    ("eps_named.png", EPS, Bad("is not an image")),
    ("tga_named.png", encoded(FACE, "TGA"), Bad("is not an image")),
    ("empty.png", b"", Bad("is empty")),
    ("avif", b"\0\0\0\x20ftypavif" + b"\0" * 20, Bad("is an AVIF picture")),
    ("film.mov", b"\0\0\0\x14ftypqt  " + b"\0" * 8, Ignored(others=1)),
    ("notes.txt", b"no image", Ignored(others=1)),
    ("empty.txt", b"", Ignored(others=1)),
    # Damage
    ("cut.png", PNG[: len(PNG) // 2], Bad("cannot be read")),
    ("cut.jpg", JPEG[: len(JPEG) * 3 // 4], Bad("cannot be read")),
    ("cut_header.jpg", JPEG[:40], Bad("cannot be read")),
    ("cut.bmp", encoded(FACE, "BMP")[:200], Bad("cannot be read")),
    ("cut.tif", encoded(FACE, "TIFF")[:200], Bad("")),
    ("cut.gif", encoded(GREY, "GIF")[:-80], Bad("cannot be read")),
    ("cut.webp", encoded(FACE, "WEBP")[:-60], Bad("is not an image")),
    (
        "wrong_checksum.png",
        PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:],
        Bad("cannot be read"),
    ),
    # Names
    ("two\nlines.jpg", b"text", Bad("is not an image")),
    ("not_utf8_\udcff.png", b"text", Bad("is not an image")),
    ("tab\t.png", PNG, Good(FACE, tolerance=0)),
    ("not_utf8_good_\udcff.png", PNG, Good(FACE, tolerance=0)),
    (".hidden.png", PNG, Ignored(others=0)),
    (".folder/inside.png", PNG, Ignored(others=0)),
    ("Thumbs.db", PNG, Ignored(others=0)),
    ("__MACOSX/._face.png", b"resource fork", Ignored(others=0)),
    ("__MACOSX/face.png", PNG, Ignored(others=0)),
    *(
        (f"exif_{n}.png", turned(n), Good(FACE, tolerance=0))
        for n in range(1, 9)
    ),
]

"""Image files in, image grids out. Everything here is uint8."""

import pathlib
import zipfile

import numpy as np

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What each key of an .npz file is for, in the order of preference.
TRAIN_KEYS = ("images", "x_train")
TEST_KEYS = ("images", "x_test", "x_train")


def load_images(path, size, channels=3, keys=TRAIN_KEYS):
    """Images of a folder or an `.npz` file as one uint8 array.

    Of a folder every image file counts, at any depth, in the order of their
    names; hidden files do not. An image is turned upright as its EXIF data say,
    laid on white where it is transparent, cropped to a centred square and
    resized with antialiasing.

    Args:
        path: a folder, or an `.npz` file with uint8 images under one of `keys`,
            `(count, height, width)` or `(count, height, width, channels)`.
        size: int, height and width to resize to, or None to keep those of an
            `.npz` file.
        channels: 3 for colour or 1 for grey (of a folder; an `.npz` file
            knows).
        keys: names of the array in an `.npz` file, the first that exists.

    Returns:
        uint8 array `(count, size, size, channels)`.

    Raises:
        ValueError: naming every file that is no image, or what else is wrong
            with `path`.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        return _load_folder(path, size, channels)
    if path.suffix == ".npz" and path.is_file():
        return _load_npz(path, size, keys)
    raise ValueError(
        f"{path} is expected to be a folder of images or an .npz file"
        + ("" if path.exists() else ", and does not exist")
    )


def _load_folder(folder, size, channels):
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.parts)
    ]
    if not files:
        raise ValueError(
            f"{folder} is expected to hold images ({', '.join(SUFFIXES)}), "
            "and holds none"
        )
    if size is None:
        raise ValueError(f"`size` is expected for the images of {folder}")
    images = np.empty((len(files), size, size, channels), "uint8")
    bad = []
    for image, file in zip(images, files, strict=True):
        try:
            image[:] = load_image(file, size, channels)
        except ValueError as error:
            bad.append(str(error))
    if bad:
        raise ValueError(
            f"{len(bad)} of {len(files)} files cannot be read: "
            + "; ".join(bad)
        )
    return images


def load_image(file, size, channels=3):
    """One image file as a uint8 array `(size, size, channels)`.

    Raises:
        ValueError: naming the file, if it is no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            image = ImageOps.exif_transpose(image)
            return _fit(image, size, channels)
    except UnidentifiedImageError:
        raise ValueError(f"{file} is not an image") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None


def _fit(image, size, channels):
    from PIL import Image, ImageOps

    if image.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image) // 257).astype("uint8"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB" if channels == 3 else "L")
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(size, size, channels)


def _load_npz(path, size, keys):
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} cannot be read: it is not an .npz file")
    with np.load(path) as arrays:
        key = next((key for key in keys if key in arrays), None)
        if key is None:
            raise ValueError(
                f"{path} is expected to hold one of {', '.join(keys)}. "
                f"Received: {', '.join(arrays) or 'nothing'}"
            )
        try:
            images = arrays[key]
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != "uint8" or not len(images):
        raise ValueError(
            f"{key} in {path} is expected to be uint8 (count, height, width, "
            f"channels). Received: dtype={images.dtype}, shape={images.shape}"
        )
    if size is None or images.shape[1:3] == (size, size):
        return images
    from PIL import Image

    channels = images.shape[-1]
    return np.stack(
        [
            _fit(
                Image.fromarray(image[..., 0] if channels == 1 else image),
                size,
                channels,
            )
            for image in images
        ]
    )


def image_grid(images, columns=None, padding=2):
    """One picture of many: row by row, pixels as they are, white between.

    Args:
        images: uint8 array `(count, height, width, channels)`.
        columns: int, or None for about a square.
        padding: int, pixels between and around the images.

    Returns:
        uint8 array `(height, width, channels)`.
    """
    count, height, width, channels = images.shape
    columns = columns or max(1, int(np.ceil(np.sqrt(count))))
    rows = -(-count // columns)
    cell = (height + padding, width + padding)
    grid = np.full(
        (rows * cell[0] + padding, columns * cell[1] + padding, channels),
        255,
        "uint8",
    )
    for i, image in enumerate(images):
        y = padding + (i // columns) * cell[0]
        x = padding + (i % columns) * cell[1]
        grid[y : y + height, x : x + width] = image
    return grid


def save_image(image, path):
    """Writes a uint8 array `(height, width, 1 or 3)` as a PNG, pixel by pixel.

    Missing folders are made.
    """
    from PIL import Image

    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
        path, format="PNG"
    )


def save_grid(images, path, columns=None, padding=2):
    """Writes `image_grid(images, columns, padding)` as a PNG."""
    save_image(image_grid(images, columns, padding), path)

"""Finds and reads the image files of a folder, and reports on all of them."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import stat
import warnings

import numpy as np

from keras_glow.checks import ImageFormat
from keras_glow.images.cache import cache_lock, open_cache, write_cache
from keras_glow.images.decoding import (
    AS_IT_IS,
    SUFFIXES,
    BadImage,
    NotAnImage,
    file_identity,
    read_picture,
)
from keras_glow.images.progress import chunks
from keras_glow.images.report import Report

# Files of file managers; names with a leading dot are hidden as well.
SYSTEM_FILES = ("__macosx", "desktop.ini", "thumbs.db")
NOT_REGULAR = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
CHUNK = 64  # files that are read before their pixels are handed on
# More would need more memory: an image of the largest size takes 256 MB.
THREADS = min(4, os.cpu_count() or 1)
# Part of the cache key: increment it when the decoder or `Report` changes.
DECODER_VERSION = 2


def check_folder(folder, form=AS_IT_IS, verbose=0):
    """Read every image of a folder as a `Form`, and return a `Report`.

    Images count at any depth, by their content. Hidden files do not.
    """
    report = Report(os.fspath(folder))
    for _ in read_images(find_files(report), report, form, verbose):
        pass
    return report


def load_folder(folder, form, cache=None, verbose=0):
    """Load the images of a folder that can be used, and report on all files.

    A cache that was made from files of the same names, sizes and times, for the
    same `Form`, is used as it is; else it is written. If it cannot be written,
    a warning says why. See `load_images`.

    Returns:
        Tuple of an array `(count, size, size, channels)`, with `cache` a
        read-only memory map, and a `Report`.
    """
    report = Report(os.fspath(folder))
    files = find_files(report, cache)
    shape = (form.size, form.size, form.channels)
    pixels = read_images(files, report, form, verbose)
    dtype = ImageFormat(shape, form.bits).dtype
    if cache is None or not files:
        images = np.empty((len(files), *shape), dtype)
        for row, image in enumerate(pixels):
            images[row] = image
        return images[: report.images], report
    cached = None  # It stays None if no image can be used.
    try:
        cache = pathlib.Path(cache)
        key = _cache_key(files, report, shape, form)
        with cache_lock(cache):
            cached = open_cache(cache, key)
            if cached is None:
                write_cache(cache, key, pixels, shape, report, dtype)
                cached = open_cache(cache, key)
    except OSError as error:
        warnings.warn(
            f"{cache} cannot be written, so images stay in memory: "
            f"{error.__cause__ or error}",
            stacklevel=3,
        )
    if cached is None:
        return load_folder(folder, form, None, verbose)
    images, report_then = cached
    return images, Report(**{**report_then, "path": report.path})


def _cache_key(files, report, shape, form):
    """Return a digest of everything that decides the pixels."""
    made_from = [DECODER_VERSION, shape, form.upscale]
    made_from += [report.bad, report.skipped]
    if form.bits > 8:  # with fewer the pixels are the same
        made_from.append(form.bits)
    # Of the identity of a file its size and time count, its inode does not.
    made_from += [(name, *identity[1:]) for name, identity in files.items()]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def find_files(report, cache=None):
    """Find the files of a folder that may be images; report the others.

    The folder of the cache is left out: within this one, it is that of a run.
    Returns a dict of names and `file_identity`, in the order of names.
    """
    root = os.path.realpath(report.path)
    excluded = set()
    if cache is not None:
        cache = pathlib.Path(os.path.realpath(cache))
        excluded = {
            os.path.relpath(path, root)
            for path in (cache, cache.parent)
            if path.is_relative_to(root)
        }
    files, names = {}, [""]

    def visit(name):
        """Take a file or look into a folder, or return why neither is done."""
        path = os.path.join(report.path, name)
        if name and os.path.islink(path):
            target = pathlib.Path(os.path.realpath(path))
            if not target.exists():
                return "is a link that leads nowhere"
            if not target.is_relative_to(root):
                return "is a link that leads out of the folder"
            if target.is_dir():
                return "is a link to a folder"
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            files[name] = file_identity(status)
        elif not stat.S_ISDIR(status.st_mode):
            kind = stat.S_IFMT(status.st_mode)
            return f"is {NOT_REGULAR.get(kind, 'no file')}"
        elif name and _named_like_an_image(name):
            return "is a folder"
        else:
            inside = (
                os.path.join(name, entry)
                for entry in os.listdir(path)
                if not entry.startswith(".")
                and entry.lower() not in SYSTEM_FILES
            )
            names.extend(name for name in inside if name not in excluded)
        return None

    while names:
        name = names.pop()
        try:
            reason = visit(name)
        except OSError as error:
            report.bad.append((name, f"cannot be read: {error.strerror}"))
        else:
            if reason:
                report.skipped.append((name, reason))
    report.bad.sort(key=_by_name)
    report.skipped.sort(key=_by_name)
    return dict(sorted(files.items(), key=_by_name))


def _by_name(item):
    return item[0].split(os.sep)


def _named_like_an_image(name):
    return name.lower().endswith(SUFFIXES)


def read_images(files, report, form, verbose):
    """Yield the pixels of each file that can be used, and report on all.

    The report is complete once the last image was taken. Without a size the
    pixels are None: they could be large, and nobody wants them.
    """

    def read(name):
        return _read_file(os.path.join(report.path, name), files[name], form)

    names = list(files)
    digests = set()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for chunk in chunks(len(names), CHUNK, "files read", not verbose):
            # Pillow's warnings are ignored, since bad files are reported. The
            # caller's are not, so nothing is yielded in here.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                pictures = list(pool.map(read, names[chunk]))
            for name, picture in zip(names[chunk], pictures, strict=True):
                if isinstance(picture, NotAnImage):
                    report.others += 1
                elif isinstance(picture, BadImage):
                    report.bad.append((name, str(picture)))
                else:
                    report.images += 1
                    report.names.append(name)
                    report.duplicates += picture.digest in digests
                    digests.add(picture.digest)
                    report.notes += [(name, note) for note in picture.notes]
                    yield picture.pixels
    report.bad.sort(key=_by_name)


def _read_file(path, identity, form):
    """Return a file's `Picture`, or a `BadImage` saying why there is none."""
    named_like_an_image = _named_like_an_image(path)
    try:
        picture = read_picture(path, form, identity)
    except NotAnImage as error:
        return BadImage(error) if named_like_an_image else error
    except BadImage as error:
        return error
    if not named_like_an_image:
        if picture.format == "TIFF":
            # Raw photos are such files, and hold no picture to train on.
            return NotAnImage("is a TIFF image by another name")
        picture.notes.append("is an image by its content, not by its name")
    if form.size is None:
        return picture._replace(pixels=None)
    if min(picture.size) < form.size:
        width, height = picture.size
        smaller = f"is {width}x{height}: smaller than {form.size}x{form.size}"
        if not form.upscale:
            return BadImage(f"{smaller}, and `upscale` is off")
        picture.notes.append(f"{smaller}, and enlarged")
    return picture

"""A folder of image files: what is in it, what is wrong with it, its pixels."""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import stat
import warnings

import keras
import numpy as np

from keras_glow.images.cache import cache_lock, open_cache, write_cache
from keras_glow.images.decoding import (
    BadImage,
    NotAnImage,
    identity,
    read_picture,
)

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# What file managers leave behind; names with a leading dot are hidden as well.
LITTER = ("__macosx", "desktop.ini", "thumbs.db")
KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
CHUNK = 64  # files that are read before their pixels go where they belong
# More would need more memory: an image of the largest size takes 256 MB.
THREADS = min(4, os.cpu_count() or 1)
DECODING = 1  # of the cache: to be counted up when pixels come out differently


@dataclasses.dataclass
class Report:
    """What is in a folder, or in an `.npz` file.

    Attributes:
        path: str, the folder.
        images: int, how many can be used.
        bad: list of (name, reason): images that cannot be used. Names are
            relative to the folder.
        skipped: list of (name, reason): what is not looked into.
        notes: list of (name, note): images that can be used, and what is done
            to them.
        duplicates: int, files of the same content as another one before.
        others: int, files that are no images and do not look like any.
    """

    path: str
    images: int = 0
    bad: list = dataclasses.field(default_factory=list)
    skipped: list = dataclasses.field(default_factory=list)
    notes: list = dataclasses.field(default_factory=list)
    duplicates: int = 0
    others: int = 0

    def problem(self):
        """One line on every file that is bad, or None if there is none."""
        if self.bad:
            return (
                f"{len(self.bad)} of {self.images + len(self.bad)} files in "
                f"{shown(self.path)} cannot be used as images: "
                + "; ".join(self._lines(self.bad))
            )
        if not self.images:
            return (
                f"{shown(self.path)} is expected to hold images "
                f"({', '.join(SUFFIXES)}), and holds none"
                + "".join(f"; {line}" for line in self._lines(self.skipped))
            )
        return None

    def summary(self):
        """One line of the counts."""
        counts = (
            (len(self.bad), "cannot be used"),
            (len(self.skipped), "skipped"),
            (self.duplicates, "the same as another"),
            (len({name for name, _ in self.notes}), "with a note"),
            (self.others, "other files"),
        )
        more = [f"{count} {what}" for count, what in counts if count]
        return ", ".join([f"{self.images} images", *more])

    def lines(self, notes=True):
        """A line for each finding, what is bad first, and one of the counts."""
        kinds = [("bad", self.bad), ("skipped", self.skipped)]
        if notes:
            kinds.append(("note", self.notes))
        return [
            *(
                f"{kind}: {line}"
                for kind, found in kinds
                for line in self._lines(found)
            ),
            self.summary(),
        ]

    def _lines(self, found):
        return [
            f"{shown(os.path.join(self.path, name) if name else self.path)} "
            f"{what}"
            for name, what in found
        ]


def shown(path):
    """A path as it is, or as its repr if that would not be one line of text."""
    path = os.fspath(path)
    return path if path.isprintable() else repr(path)


def check_folder(folder, size=None, channels=3, upscale=False, verbose=0):
    """Reads every image of a folder, and reports.

    Args:
        folder: path of it. Images count at any depth, by their content.
            Hidden files do not.
        size: int, the height and width to train at, or None: then no image is
            too small.
        channels: 3 for colour or 1 for grey.
        upscale: bool, whether images smaller than `size` may be enlarged.
        verbose: 1 for a progress bar.

    Returns:
        A `Report`.
    """
    report = Report(os.fspath(folder))
    files = _find(report)
    _read(files, report, size, channels, upscale, verbose, lambda pixels: None)
    return report


def load_folder(folder, size, channels=3, upscale=False, cache=None, verbose=0):
    """The images of a folder that can be used, and a report on all.

    Args:
        folder: see `check_folder`.
        size: int, height and width to crop and resize to.
        channels: see `check_folder`.
        upscale: likewise.
        cache: path of an `.npy` file, or None. If it holds what would be made
            now from files of the same names, sizes and times, it is taken as it
            is; else it is written. If it cannot be written, a warning says why.
        verbose: see `check_folder`.

    Returns:
        Tuple of a uint8 array `(count, size, size, channels)`, with `cache` a
        read-only memory map, and a `Report`.
    """
    report = Report(os.fspath(folder))
    files = _find(report, cache)
    shape = (size, size, channels)

    def fill(write):
        _read(files, report, size, channels, upscale, verbose, write)
        return dataclasses.asdict(report)

    if cache is None or not files:
        images = np.empty((len(files), *shape), "uint8")
        rows = iter(images)

        def write(pixels):
            next(rows)[:] = pixels

        fill(write)
        return images[: report.images], report
    try:
        cache = pathlib.Path(cache)
        key = _key(files, report, shape, upscale)
        with cache_lock(cache):
            loaded = open_cache(cache, key)
            if loaded is None:
                write_cache(cache, key, len(files), shape, fill)
                loaded = open_cache(cache, key)
    except OSError as error:
        warnings.warn(
            f"{cache} cannot be written, so images stay in memory: {error}",
            stacklevel=3,
        )
        loaded = None
    if loaded is None:  # or there is no image that can be used
        return load_folder(folder, size, channels, upscale, None, verbose)
    images, before = loaded
    return images, Report(**{**before, "path": report.path})


def _key(files, report, shape, upscale):
    """What decides the pixels; files by their names, sizes and times."""
    made_from = [DECODING, shape, upscale, report.bad, report.skipped]
    made_from += [(name, *seen[1:]) for name, seen in files.items()]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _find(report, cache=None):
    """The files that may be images: a dict of names and `identity`, in order.

    What is not looked into goes into the report. The folder of the cache is
    left out, if that is a folder in this one: it is that of a run.
    """
    root = os.path.realpath(report.path)
    own = set()
    if cache is not None:
        cache = pathlib.Path(os.path.realpath(cache))
        own = {
            os.path.relpath(path, root)
            for path in (cache, cache.parent)
            if path.is_relative_to(root)
        }
    found, folders = {}, [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(report.path, folder)) as entries:
                entries = list(entries)
        except OSError as error:
            report.bad.append((folder, f"cannot be read: {error.strerror}"))
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            name = os.path.join(folder, entry.name)
            if name in own:
                continue
            try:
                reason = _look_at(entry, root, name, found, folders)
            except OSError as error:
                report.bad.append((name, f"cannot be read: {error.strerror}"))
                continue
            if reason:
                report.skipped.append((name, reason))
    report.bad.sort(key=_by_name)
    report.skipped.sort(key=_by_name)
    return dict(sorted(found.items(), key=_by_name))


def _look_at(entry, root, name, found, folders):
    """Puts a file or a folder where it belongs, or says why it is skipped."""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not os.path.exists(target):
            return "is a link that leads nowhere"
        if not pathlib.Path(target).is_relative_to(root):
            return "is a link that leads out of the folder"
        if entry.is_dir():
            return "is a link to a folder"
    elif entry.is_dir():
        if _named_like_an_image(name):
            return "is a folder"
        folders.append(name)
        return None
    status = os.stat(entry.path)  # entry.stat() leaves some out on Windows
    if not stat.S_ISREG(status.st_mode):
        return f"is {KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}"
    found[name] = identity(status)
    return None


def _by_name(item):
    return item[0].split(os.sep)


def _named_like_an_image(name):
    return name.lower().endswith(SUFFIXES)


def _read(files, report, size, channels, upscale, verbose, write):
    """Reads files one after the other and reports on them.

    Args:
        files: dict of names and `identity`.
        report: `Report` to fill in.
        size: see `check_folder`.
        channels: likewise.
        upscale: likewise.
        verbose: likewise.
        write: function that is given the pixels of each image that can be used.
    """

    def read(name):
        path = os.path.join(report.path, name)
        named = _named_like_an_image(name)
        try:
            picture = read_picture(path, size, channels, files[name])
        except NotAnImage as error:
            return None, BadImage(error) if named else error
        except BadImage as error:
            return None, error
        if not named:
            if picture.format == "TIFF":
                # Raw photos are such files, and hold no picture to train on.
                return None, NotAnImage("is a TIFF image by another name")
            picture.notes.append("is an image by its content, not by its name")
        if size is not None and min(picture.size) < size:
            width, height = picture.size
            smaller = f"is {width}x{height}: smaller than {size}x{size}"
            if not upscale:
                return None, BadImage(f"{smaller}, and `upscale` is off")
            picture.notes.append(f"{smaller}, and enlarged")
        if size is None:
            picture = picture._replace(pixels=None)  # large, and not wanted
        return picture, None

    progress = keras.utils.Progbar(
        len(files), unit_name="image", verbose=verbose, interval=0.5
    )
    names = list(files)
    digests = set()
    with (
        warnings.catch_warnings(),
        concurrent.futures.ThreadPoolExecutor(THREADS) as pool,
    ):
        warnings.simplefilter("ignore")  # Pillow's: bad files are reported
        for start in range(0, len(names), CHUNK):
            chunk = names[start : start + CHUNK]
            for name, (picture, error) in zip(
                chunk, pool.map(read, chunk), strict=True
            ):
                if picture is not None:
                    write(picture.pixels)
                    report.images += 1
                    report.duplicates += picture.digest in digests
                    digests.add(picture.digest)
                    report.notes += [(name, note) for note in picture.notes]
                elif isinstance(error, NotAnImage):
                    report.others += 1
                else:
                    report.bad.append((name, str(error)))
            progress.update(start + len(chunk))
    report.bad.sort(key=_by_name)

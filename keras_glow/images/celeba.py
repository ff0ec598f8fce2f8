"""Makes the files of faces that docs, experiments and notebooks speak of.

They come from CelebA (Liu, Luo, Wang and Tang, 2015), as its authors pass it
on: https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html. It is for non-commercial
research, and may not be passed on.
"""

import concurrent.futures
import contextlib
import csv
import io
import os
import pathlib
import re
import tarfile
import warnings
import zipfile

import numpy as np
from PIL import Image

from keras_glow.checks import check_integer, one_line, printable_path
from keras_glow.files.atomic import atomic_file
from keras_glow.images.decoding import BadImage, decode_picture
from keras_glow.images.progress import chunks

FRAME = (178, 218)  # width and height of an aligned image
BOX = (25, 57, 153, 185)  # the usual one: 128x128 around (89, 121)
PARTS = ("train", "valid", "test")  # by their numbers in the partition
FOLDER = "img_align_celeba"
LISTS = ("list_attr_celeba", "list_eval_partition", "identity_celeba")
SAMPLE = 1800  # files in `celeba_sample.tar`
CHUNK = 1024  # images that are decoded at once


def prepare_celeba(source, folder, size=32, split=None, verbose=0):
    """Make `faces<size>_train.npz`, `_valid` and `_test`, of other people each.

    Each holds `images`, uint8 `(count, size, size, 3)`, `attributes`, uint8 0
    or 1 `(count, 40)`, `attribute_names`, `celeba_id`, the numbers in the names
    of the files, and `identity`, if that is known. A face is the 128x128 box
    around (89, 121) of the aligned image, made smaller with antialiasing: to
    64x64, and from there to a smaller size. `celeba_sample.tar` holds the first
    1,800 files to train on as they are, and their attributes.

    Args:
        source: folder or zip file of the archive: `img_align_celeba/` or a zip
            file of it, `list_attr_celeba`, `list_eval_partition` and, if it is
            there, `identity_CelebA`, each `.txt` or `.csv`, at any depth.
        folder: where to write; made if it is missing.
        size: int 1..128, height and width of a face.
        split: dict of parts to the numbers of their images, taken if all of
            them are there; None, or else: the partition of the archive. People
            who are in several parts of that stay in the first.
        verbose: 1 for a progress bar.

    Returns:
        Dict of the paths that were written to the number of their images.

    Raises:
        ValueError: naming what the archive lacks, or an image that cannot be
            used.
    """
    check_integer("size", size, 1, BOX[2] - BOX[0])
    folder = pathlib.Path(folder)
    written = {}
    with contextlib.ExitStack() as stack:
        archive = _Archive(source, _files(source, stack))
        wanted = set().union(*(split or {}).values())
        if split is None or not wanted <= archive.images.keys():
            split = archive.split()
        for part, numbers in split.items():
            path = folder / f"faces{size}_{part}.npz"
            faces = archive.faces(numbers, size, not verbose)
            about = archive.about(numbers)
            with atomic_file(path) as partial:
                np.savez_compressed(partial, images=faces, **about)
            written[path] = len(numbers)
        numbers, path = split["train"][:SAMPLE], folder / "celeba_sample.tar"
        with atomic_file(path) as partial:
            archive.write_sample(numbers, partial)
        written[path] = len(numbers)
    return written


def _files(source, stack):
    """Yield the files of a folder, and of the zip file, or of the images."""
    source = pathlib.Path(source)
    for path in sorted(source.rglob("*")) if source.is_dir() else [source]:
        if path == source or path.name.lower() == f"{FOLDER}.zip":
            try:
                archive = stack.enter_context(zipfile.ZipFile(path))
            except (OSError, zipfile.BadZipFile) as error:
                raise ValueError(
                    f"{printable_path(path)} is expected to be a folder or a "
                    f"zip file of CelebA: {one_line(error)}"
                ) from None
            for name in archive.namelist():
                yield zipfile.Path(archive, name)
        else:
            yield path


class _Archive:
    """CelebA's images and what is known of them, by their numbers."""

    def __init__(self, source, files):
        self.shown = printable_path(source)
        self.images, tables = {}, dict.fromkeys(LISTS, ((), {}))
        for file in files:
            name = re.split(r"[/\\]", str(file))[-1].lower()
            stem, suffix = os.path.splitext(name)
            if re.fullmatch(r"\d+\.jpg", name) and FOLDER in str(file):
                self.images.setdefault(int(stem), file)
            elif stem in tables and suffix in (".txt", ".csv"):
                tables[stem] = _read_table(file)
        (self.names, self.attributes), (_, partition), (_, identity) = (
            tables[name] for name in LISTS
        )
        self.partition = {n: part for n, (part,) in partition.items()}
        self.identity = {n: person for n, (person,) in identity.items()}
        for name, found in (
            (f"{FOLDER}/*.jpg", self.images),
            (f"{LISTS[0]}.txt", self.attributes),
            (f"{LISTS[1]}.txt", self.partition),
        ):
            if not found:
                raise ValueError(
                    f"{self.shown} is expected to hold {name}, the archive of "
                    "CelebA"
                )

    def split(self):
        """Return the numbers of the images in each part of the partition."""
        split = {part: [] for part in PARTS}
        part_of, left_out = {}, 0
        for number, part in sorted(self.partition.items(), key=lambda p: p[1]):
            person = self.identity.get(number, ("nobody else", number))
            if part_of.setdefault(person, part) == part:
                split[PARTS[part]].append(number)
            else:
                left_out += 1
        if left_out:
            warnings.warn(
                f"Left out: {left_out} images of people in an earlier part",
                stacklevel=3,
            )
        return {part: sorted(found) for part, found in split.items() if found}

    def faces(self, numbers, size, quiet):
        """Return the faces, uint8 `(count, size, size, 3)`."""
        missing = [n for n in numbers if n not in self.images]
        if missing:
            raise ValueError(
                f"{self.shown} is expected to hold {len(numbers)} images. "
                f"{len(missing)} are missing, the first is {missing[0]:06}.jpg"
            )
        faces = np.empty((len(numbers), size, size, 3), "uint8")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for chunk in chunks(len(numbers), CHUNK, "faces", quiet):
                files = [self.images[n] for n in numbers[chunk]]
                faces[chunk] = list(
                    pool.map(lambda file: _face(file, size), files)
                )
        return faces

    def about(self, numbers):
        """Return the other arrays of a file, by their names."""
        arrays = {
            "attributes": self._attributes(numbers),
            "attribute_names": np.array(self.names),
            "celeba_id": np.array(numbers, "int32"),
        }
        people = [self.identity.get(number) for number in numbers]
        if None not in people:
            arrays["identity"] = np.array(people, "int32")
        return arrays

    def _attributes(self, numbers):
        missing = [n for n in numbers if n not in self.attributes]
        if missing:
            raise ValueError(
                f"{self.shown} is expected to hold the attributes of "
                f"{missing[0]:06}.jpg in {LISTS[0]}.txt"
            )
        values = [self.attributes[number] for number in numbers]
        return (np.array(values) == 1).astype("uint8")

    def write_sample(self, numbers, path):
        """Write a tar file of images as they are, and their attributes."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", *self.names])
        members = {}
        attributes = self._attributes(numbers).tolist()
        for number, values in zip(numbers, attributes, strict=True):
            name = f"{FOLDER}/{number:06}.jpg"
            members[name] = self.images[number].read_bytes()
            table.writerow([name, *values])
        members["attributes.csv"] = text.getvalue().encode()
        with tarfile.open(path, "w") as tar:
            for name, content in members.items():
                info = tarfile.TarInfo(f"celeba_sample/{name}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _read_table(file):
    """Return the names of columns, if any, and rows of integers by number."""
    names, rows = [], {}
    try:
        for line in file.read_bytes().decode().splitlines():
            first, *values = re.split(r"[,\s]+", line.strip())
            if first.endswith(".jpg"):
                rows[int(first[:-4])] = list(map(int, values))
            elif values:  # The first line may be the number of images.
                names = values if first == "image_id" else [first, *values]
        if len({len(row) for row in rows.values()}) > 1:
            raise ValueError("its rows have different lengths")
    except ValueError as error:
        shown = printable_path(str(file))
        raise ValueError(f"{shown} cannot be read: {error}") from None
    return names, rows


def _face(file, size):
    shown = printable_path(str(file))
    try:
        pixels = decode_picture(file.read_bytes()).pixels
    except BadImage as error:
        raise ValueError(f"{shown} {error}") from None
    if pixels.shape[1::-1] != FRAME:
        raise ValueError(
            f"{shown} is expected to be aligned, 178x218. Received: "
            f"{pixels.shape[1]}x{pixels.shape[0]}"
        )
    # `faces32` was trained on faces that were made in these two steps.
    first = max(size, 64)
    face = Image.fromarray(pixels).resize(
        (first, first), Image.Resampling.LANCZOS, BOX
    )
    return np.asarray(face.resize((size, size), Image.Resampling.BOX))

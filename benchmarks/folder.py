"""How fast a folder of images is prepared, and how fast it is there again.

    python benchmarks/folder.py [--count 10000] [--size 64] [--format PNG]

Writes the images, random but smooth, into a temporary folder and loads them
twice with a cache: checked, decoded and written; then from the cache. A third
figure loads them without a cache. `--source 1024` writes larger images, that
are resized.
"""

import argparse
import os
import pathlib
import tempfile
import time

import numpy as np
from PIL import Image

from keras_glow.images.loading import load_images


def write_images(folder, count, size, format):
    """Smooth random pictures, like photos in how they compress."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype="uint8")
        image = Image.fromarray(coarse).resize((size, size))
        image.save(folder / f"{i:06}.{format.lower()}", format)


def main():
    """Prints images a second, and seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--source", type=int, help="size of the files' images")
    parser.add_argument("--format", default="PNG", help="or JPEG, ...")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        source = folder / "images"
        source.mkdir()
        write_images(
            source,
            arguments.count,
            arguments.source or arguments.size,
            arguments.format,
        )
        print(
            f"{arguments.count} {arguments.format} files, {os.cpu_count()} "
            f"CPUs, load {os.getloadavg()[0]:.1f}"
        )
        for name, cache in (
            ("first start, cache written", folder / "images.npy"),
            ("second start, from the cache", folder / "images.npy"),
            ("without a cache", None),
        ):
            start = time.perf_counter()
            load_images(source, arguments.size, cache=cache)
            seconds = time.perf_counter() - start
            rate = arguments.count / seconds
            print(f"{name}: {rate:,.0f} images/s, {seconds:.2f} s", flush=True)


if __name__ == "__main__":
    main()

"""Damaged images, thousands of them: a reason each, no crash and no hang."""

import json
import subprocess
import sys

import pytest
from helpers import WITHOUT_BACKEND

# In a process of its own, which a crash in Pillow's C code would end. A timer
# ends it, with a stack trace, if one file takes two seconds of work.
SCRIPT = r'''
import faulthandler, io, json, pathlib, re, signal, struct, sys, warnings, zlib

import numpy as np
from PIL import Image

from keras_glow.images.decoding import BadImage, Form, read_picture

warnings.simplefilter("ignore")
faulthandler.enable()
faulthandler.register(signal.SIGPROF, chain=True)
rng = np.random.default_rng(0)
y, x = np.mgrid[:48, :40]
face = np.stack([3 * x + y, x * y // 8, 255 - 4 * y], -1).clip(0, 255)
face = face.astype("uint8")
rgb = Image.fromarray(face)
exif = Image.Exif()
exif[0x0112] = 6


def encoded(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


jpegs = [
    encoded(rgb, "JPEG", exif=exif),
    encoded(rgb, "JPEG", progressive=True),
    encoded(rgb.convert("L"), "JPEG"),
    encoded(rgb.convert("CMYK"), "JPEG"),
]
pngs = [
    encoded(rgb, "PNG", exif=exif),
    encoded(rgb.convert("P"), "PNG", transparency=3),
    encoded(rgb.convert("RGBA"), "PNG"),
    encoded(Image.fromarray(face[..., 0].astype("uint16") * 257), "PNG"),
    encoded(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
]


def with_checksums(png):
    """Right checksums for each chunk, or most damage is found by them."""
    parts, start = [png[:8]], 8
    while start + 12 <= len(png):
        (length,) = struct.unpack(">I", png[start : start + 4])
        end = start + 8 + length
        if end + 4 > len(png):
            break
        checksum = zlib.crc32(png[start + 4 : end])
        parts += [png[start:end], struct.pack(">I", checksum)]
        start = end + 4
    return b"".join(parts) + png[start:]


def memory(name):
    """MB, of Linux: what getrusage says includes the parent's."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return 0
    return int(re.search(name + r":\s+(\d+)", status.read_text())[1]) / 1024


path = pathlib.Path(sys.argv[1], "mutated")
total = int(sys.argv[2])
used = refused = 0
before = memory("VmRSS")
for i in range(total):
    kind = jpegs if i % 2 else pngs
    content = bytearray(kind[i // 2 % len(kind)])
    for position in rng.integers(0, len(content), 8):
        content[position] ^= 1 << int(rng.integers(8))
    if kind is pngs and i % 4:
        content = with_checksums(bytes(content))
    path.write_bytes(content)
    signal.setitimer(signal.ITIMER_PROF, 2)
    try:
        picture = read_picture(path, Form(16))
        assert picture.pixels.shape == (16, 16, 3)
        used += 1
    except BadImage as error:
        assert len(str(error).splitlines()) == 1
        refused += 1
    signal.setitimer(signal.ITIMER_PROF, 0)
growth = memory("VmHWM") - before
print(json.dumps({"used": used, "refused": refused, "growth": growth}))
'''


@pytest.mark.parametrize(
    "count", [300, pytest.param(20_000, marks=pytest.mark.slow)]
)
def test_mutated_images(count, tmp_path, record_property):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path, str(count)],
        capture_output=True,
        text=True,
        env=WITHOUT_BACKEND,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["used"] + result["refused"] == count
    assert min(result["used"], result["refused"]) > count / 20
    assert result["growth"] < 300
    record_property(
        "JPEG and PNG files with eight bits flipped: read, or refused with a "
        "reason, within 2 s each",
        f"{count} of {count} ({result['used']} read)",
    )
    record_property(
        "memory that reading them took, at most (MB)",
        f"{result['growth']:.0f}",
    )

"""Every figure of reliability, measured by the tests, as one table.

    python experiments/reliability.py --out docs/reliability.md

Runs all tests that record a figure, the slow ones too (`pytest -m figure`), one
test file after the other, and writes what they recorded. It can be stopped at
any time: the same command goes on with the next file. `--keep DIR` says where
the results lie meanwhile; without those it starts anew.
"""

import argparse
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
TITLES = {
    "test_arguments": "Arguments",
    "test_check_data": "Folders of images",
    "test_checkpoint": "Checkpoints and resuming",
    "test_cli": "The command line",
    "test_conversion": "Checkpoints of other projects",
    "test_decoding_fuzz": "Damaged image files",
    "test_demo": "The page of `keras-glow demo`",
    "test_determinism": "Determinism",
    "test_divergence": "Steps that are not finite",
    "test_endurance": "Long runs",
    "test_folder": "Kinds of image files",
    "test_image_cache": "The cache of decoded images",
    "test_invertibility": "The flow: pixels, matrices, probabilities",
    "test_loading": "The strict loader",
    "test_presets": "The model that comes with it",
    "test_source": "The source",
}
HEAD = """# Reliability, measured

Every figure here was recorded by the test that names it; all of them are
written anew by

```sh
make reliability
```

Each test fails if its figure is not reached, so what differs from run to run
are sizes and counts, not verdicts. This table: Python {python}, TensorFlow
{tensorflow}, Keras {keras}, {cores} CPU cores.

Not covered, or not held:

- A GPU, Windows, a power cut. The tests run on Torch and JAX too
  ([backends.md](backends.md)), but record no figure there. Several replicas:
  [devices.md](devices.md).
- Very deep flows at the start of training. At 96 steps of flow, width 16 and a
  learning rate of 1e-3 without warm-up, 49,622 of 196,608 values did not come
  back after 25 steps of training, 801 after 50 and none after 75; noise still
  came back off by 0.06 after 100. The figure below is after 150.
  `ReconstructionError` and `keras-glow doctor` report it.
- Ten times the highest rate of `keras-glow train`, 4e-2: one run ended with a
  largest entry of W W^-1 - I of 1.3e-5, over the 1e-5 asked for.
- A flipped bit in a `.weights.h5` file: HDF5 has no checksums, so only `sha256`
  sees it.
"""


def test_files():
    """The test files that record figures."""
    return [
        path
        for path in sorted(
            (REPOSITORY / "tests").rglob("test_*.py"), key=lambda p: p.stem
        )
        if "record_property" in path.read_text()
    ]


def run(path, report):
    """Runs the tests of a file that record figures, and keeps their report."""
    partial = report.with_suffix(".partial")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "figure", str(path)]
    command.append(f"--junitxml={partial}")
    subprocess.run(command, cwd=REPOSITORY, check=False)  # noqa: S603
    partial.replace(report)


def read(reports):
    """What the tests recorded: rows `(figure, value, test)` by test file.

    Of one figure the report that was written last counts.

    Returns:
        Tuple of a dict and of whether all tests passed.
    """
    found, passed = {}, True
    for report in sorted(reports, key=os.path.getmtime):
        tree = xml.etree.ElementTree.parse(report)  # noqa: S314
        for case in tree.iter("testcase"):
            stem = case.get("classname").rpartition(".")[2]
            test = case.get("name")
            failed = any(case.find(t) is not None for t in ("failure", "error"))
            passed &= not failed
            for item in case.iter("property"):
                name, value = item.get("name"), item.get("value")
                value = f"FAILED: {value}" if failed else value
                found.setdefault(stem, {})[name] = (name, value, test)
    return {stem: list(found[stem].values()) for stem in sorted(found)}, passed


def table(rows):
    """Rows as Markdown."""
    lines = ["| what | measured | test |", "|---|---|---|"]
    for row in rows:
        cells = [str(cell).replace("|", "\\|") for cell in row]
        lines.append(f"| {cells[0]} | {cells[1]} | `{cells[2]}` |")
    return "\n".join(lines)


def main():
    """Runs what has no report yet, then writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--out", type=pathlib.Path, required=True, help="Markdown file")
    add("--keep", type=pathlib.Path, default="runs/reliability")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    packages = ("keras", "tensorflow-cpu")
    versions = [importlib.metadata.version(package) for package in packages]
    text = HEAD.format(
        python=".".join(map(str, sys.version_info[:3])),
        keras=versions[0],
        tensorflow=versions[1],
        cores=os.cpu_count(),
    )
    for path in test_files():
        report = (options.keep / f"{path.stem}.xml").resolve()
        if not report.exists():
            run(path, report)
    found, passed = read(options.keep.glob("*.xml"))
    for stem, rows in found.items():
        text += f"\n## {TITLES.get(stem, stem)}\n\n`{stem}.py`\n\n"
        text += table(rows) + "\n"
    options.out.write_text(text)
    print(options.out)
    sys.exit(not passed)


if __name__ == "__main__":
    main()

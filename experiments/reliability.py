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
    "test_decoding_fuzz": "Damaged image files",
    "test_determinism": "Determinism",
    "test_diagnosis": "The flow: inverses, conditions, samples",
    "test_divergence": "Steps that are not finite",
    "test_endurance": "Long runs",
    "test_folder": "Kinds of image files",
    "test_image_cache": "The cache of decoded images",
    "test_loading": "The strict loader",
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
"""


def test_files():
    """The test files that record figures."""
    return [
        path
        for path in sorted((REPOSITORY / "tests").glob("test_*.py"))
        if "record_property" in path.read_text()
    ]


def run(path, report):
    """Runs the tests of a file that record figures, and keeps their report."""
    partial = report.with_suffix(".partial")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "figure", str(path)]
    command.append(f"--junitxml={partial}")
    subprocess.run(command, cwd=REPOSITORY, check=False)  # noqa: S603
    partial.replace(report)


def read(report):
    """Rows `(figure, value, test)` of a report, and whether all passed."""
    rows, passed = [], True
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):  # noqa: S314
        test = case.get("name")
        failed = case.find("failure") is not None
        failed |= case.find("error") is not None
        passed &= not failed
        skipped = case.find("skipped")
        properties = [
            (item.get("name"), item.get("value"))
            for item in case.iter("property")
        ]
        if skipped is not None:
            properties = [(test, f"not run: {skipped.get('message')}")]
        elif failed:
            properties = properties or [(test, "")]
            properties = [(name, f"FAILED {v}") for name, v in properties]
        rows += [(name, value, test) for name, value in properties]
    return rows, passed


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
    all_passed = True
    for path in test_files():
        report = (options.keep / f"{path.stem}.xml").resolve()
        if not report.exists():
            run(path, report)
        rows, passed = read(report)
        all_passed &= passed
        text += f"\n## {TITLES.get(path.stem, path.stem)}\n\n`{path.name}`\n\n"
        text += table(rows) + "\n"
    options.out.write_text(text)
    print(options.out)
    sys.exit(not all_passed)


if __name__ == "__main__":
    main()

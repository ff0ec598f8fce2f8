"""What `make test` selects by markers for Torch and JAX holds the core."""

import collections
import re
import subprocess
import sys

from helpers import ROOT, WITHOUT_BACKEND

EXPRESSIONS = re.findall(
    r'^\t\t-m "(every_backend.*)"', (ROOT / "Makefile").read_text(), re.M
)
CORE = {  # file: of its tests at least so many
    "tests/layers/test_bijections.py": 150,
    "tests/layers/test_layers.py": 25,
    "tests/flow/test_glow.py": 5,
    "tests/training/test_optimizer.py": 20,
    "tests/backend/test_backends.py": 5,
    "tests/backend/test_devices.py": 3,
    "tests/backend/test_precision.py": 6,
}
CHECKPOINT = "tests/training/test_checkpoint.py"
COLLECT = """
import sys, pytest
for expression in sys.argv[1].splitlines():
    print("SELECTED")
    assert not pytest.main(
        ["--collect-only", "-q", "-m", expression, *sys.argv[2:]]
    )
"""


def test_the_makefile_selects_for_two_backends():
    assert len(EXPRESSIONS) == 2


def test_the_selections_hold_the_core():
    found = subprocess.run(
        [
            *(sys.executable, "-c", COLLECT, "\n".join(EXPRESSIONS)),
            *(*CORE, CHECKPOINT),
        ],
        cwd=ROOT,
        env=WITHOUT_BACKEND,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
    parts = found.stdout.split("SELECTED")[1:]
    for expression, part in zip(EXPRESSIONS, parts, strict=True):
        tests = re.findall(r"^(tests/\S+\.py)::", part, re.MULTILINE)
        counts = collections.Counter(tests)
        assert not {file for file in CORE if counts[file] < CORE[file]}
        assert (CHECKPOINT in counts) != ("slow_on_jax" in expression)

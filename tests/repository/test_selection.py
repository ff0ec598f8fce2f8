"""What `make test` selects by markers for Torch and JAX holds the core."""

import collections
import re
import subprocess
import sys

import pytest
from helpers import ROOT, WITHOUT_BACKEND

EXPRESSIONS = re.findall(
    r'-m "(every_backend.*)"', (ROOT / "Makefile").read_text()
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


def test_the_makefile_selects_for_two_backends():
    assert len(EXPRESSIONS) == 2


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_selection_holds_the_core(expression):
    found = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q"),
            *("-m", expression, *CORE, CHECKPOINT),
        ],
        cwd=ROOT,
        env=WITHOUT_BACKEND,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout
    tests = re.findall(r"^(tests/\S+\.py)::", found.stdout, re.MULTILINE)
    counts = collections.Counter(tests)
    assert not {file for file in CORE if counts[file] < CORE[file]}
    assert (CHECKPOINT in counts) != ("slow_on_jax" in expression)

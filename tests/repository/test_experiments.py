"""Each experiment runs to its end, on little data and for little time."""

import keras
import numpy as np
import pytest
from helpers import ROOT, random_images, run_script

FOLDER = ROOT / "experiments"
SMALL = "--levels 2 --depth 1 --width 8 --batch-size 16"
COMMANDS = {
    "anomaly_map": "faces.npz --count 4",
    "attributes": "faces.npz --out directions.npz --encoded 64",
    "context": "faces.npz faces.npz --task colours --cpu-minutes 0.02",
    "digit_accuracy": "mnist.npz mnist --count 20 --epochs 1",
    "edits": "faces.npz faces.npz --encoded 64 --faces 4 --odd 8",
    "export": "mnist --count 2",
    "feature_network": "faces.npz faces.npz --epochs 1 --out features.keras",
    "likelihood": "faces.npz --validation faces.npz --out out.csv "
    "--cpu-minutes 0.05",
    "mnist": f"mnist.npz --out digits --epochs 1 --classes --border 0 {SMALL}",
    "permutations": "faces.npz --validation faces.npz --out runs --epochs 1 "
    f"{SMALL}",
    "quality": "faces32 faces.npz --count 24 --temperatures 0.7",
    "scale_functions": "faces.npz faces.npz --steps 2",
    "tf32": "faces.npz --count 4",
}
ELSEWHERE = {
    "backends": "needs three environments; its files are in test_backends.py",
    "devices": "starts its own processes, as test_devices.py does",
    "reliability": "runs the tests",
    "run_settings": "is what others import",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stand-ins for the files that the experiments read."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    names = np.load(ROOT / "weights" / "faces32_attributes.npz")["names"]
    more = [f"attribute_{i}" for i in range(40 - len(names))]
    np.savez(
        folder / "faces.npz",
        images=random_images(96, (32, 32, 3)),
        attributes=rng.integers(0, 2, (96, 40), "uint8"),
        attribute_names=np.array([*names, *more]),
    )
    digits = {}
    for part, count in (("train", 300), ("test", 100)):
        digits[f"x_{part}"] = random_images(count, (28, 28, 1))[..., 0]
        digits[f"y_{part}"] = np.arange(count) % 10
    np.savez(folder / "mnist.npz", **digits)
    return folder


def test_every_experiment_is_tested():
    found = {path.stem for path in FOLDER.glob("*.py")}
    assert found == {*COMMANDS, *ELSEWHERE}


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="one backend runs them"
)
@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_experiment_runs(name, folder):
    run_script(FOLDER / f"{name}.py", folder, *COMMANDS[name].split())

"""The strict loader: own files load, everything else is refused by name."""

import hashlib
import itertools
import json
import operator
import os
import shutil
import subprocess
import sys
import warnings

import h5py
import hostile
import keras
import numpy as np
import pytest
import watch
from helpers import move_weights, random_images, to_numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import ops
from numpy.testing import assert_array_equal

import keras_glow
from keras_glow import ModelFileError, load_model
from keras_glow.files.strict_reader import training_steps
from keras_glow.flow.weights_layout import optimizer_layout, weights_layout
from keras_glow.training.checkpoint import save_checkpoint
from keras_glow.training.optimizer import guarded

MAX_SECONDS = 1.0
MAX_MEGABYTES = 100.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loading")


def make(permutation="invertible_conv"):
    """A compiled model; its weights are not those of a new one."""
    model = keras_glow.Glow(
        (4, 4, 1), levels=2, depth=1, width=4, permutation=permutation
    )
    model.compile(keras.optimizers.Adam(1e-3, use_ema=True))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7)
    for bijection in model.bijections:
        move_weights(bijection)
    return model


@pytest.fixture(scope="module")
def model(folder):
    model = make()
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return model


@pytest.fixture(scope="module")
def content(folder, model):
    return (folder / "model.keras").read_bytes()


@pytest.fixture(scope="module")
def weights(folder, model):
    return (folder / "model.weights.h5").read_bytes()


@pytest.fixture(scope="module")
def shuffled(folder):
    model = make("shuffle")
    model.save(folder / "shuffle.keras")
    return model, (folder / "shuffle.keras").read_bytes()


def state(model):
    """All that a file can change in a model, as bytes."""
    variables = [*model.weights, model.train_noise.state]
    variables += getattr(model.optimizer, "variables", [])
    return [to_numpy(variable).tobytes() for variable in variables]


def same(one, two):
    weights = zip(one.weights, two.weights, strict=True)
    return all(np.array_equal(to_numpy(a), to_numpy(b)) for a, b in weights)


class Tried:
    """Hostile files, tried one after another."""

    def __init__(self, folder):
        self.folder = folder
        self.count = 0
        self.wrong = []
        self.costs = []

    def file(self, load, name, content, reason, suffix):
        path = self.folder / f"hostile{suffix}"
        path.write_bytes(content)
        self.path(load, name, path, reason)
        if path.read_bytes() != content:
            self.wrong.append(f"{name}: the file was changed")
        path.unlink()

    def path(self, load, name, path, reason):
        before = sorted(self.folder.iterdir())
        error, cost = watch.run(lambda: load(path))
        self.count += 1
        self.costs.append(cost)
        message = str(error)
        expected = type(error) is ModelFileError and "\n" not in message
        if not expected or not message.startswith(f"{path} is refused: "):
            self.wrong.append(f"{name}: {error!r}")
        else:
            try:
                with pytest.raises(ModelFileError, match=reason):
                    raise error
            except AssertionError:
                self.wrong.append(f"{name}: {message}, not {reason}")
        if cost.misdeeds:
            self.wrong.append(f"{name}: {cost.misdeeds}")
        if cost.seconds > MAX_SECONDS or cost.megabytes > MAX_MEGABYTES:
            self.wrong.append(f"{name}: {cost}")
        if sorted(self.folder.iterdir()) != before:
            self.wrong.append(f"{name}: left files in the folder")

    def report(self, what, record_property):
        refused = self.count - len(self.wrong)
        record_property(f"{what} refused", f"{refused} of {self.count}")
        seconds = max(cost.seconds for cost in self.costs)
        record_property(f"{what}: most processor time", f"{seconds:.2f} s")
        size = max(cost.megabytes for cost in self.costs)
        record_property(f"{what}: most memory", f"{size:.0f} MB")
        record_property(
            f"{what}: forbidden system calls",
            sum(len(cost.misdeeds) for cost in self.costs),
        )
        assert self.wrong == []


@pytest.fixture
def tried(tmp_path, folder):
    # Modules are imported, and code is compiled, the first time.
    watch.run(lambda: load_model(folder / "model.keras"))
    (tmp_path / "files").mkdir()
    return Tried(tmp_path / "files")


# What is right loads


def test_it_loads_what_was_saved(folder, model, content):
    path = folder / "model.keras"
    digest = hashlib.sha256(content).hexdigest()
    loaded = load_model(path, sha256=digest.upper())
    images = random_images(5, (4, 4, 1), seed=1)
    assert_array_equal(
        loaded.log_prob(images, seed=0), model.log_prob(images, seed=0)
    )
    assert_array_equal(loaded.sample(5, seed=0), model.sample(5, seed=0))
    assert loaded.get_config() == model.get_config()
    assert training_steps(path) == 7
    # A loss scale, around the guard, around Adam: the innermost counts.
    loaded.compile(keras.optimizers.LossScaleOptimizer(guarded("adam")))
    loaded.optimizer.build(loaded.trainable_variables)
    loaded.optimizer.iterations.assign(5)
    loaded.save(folder / "scaled.keras")
    assert training_steps(folder / "scaled.keras") == 5
    loaded = load_model(path)
    loaded.save(folder / "loaded.keras")
    assert training_steps(folder / "loaded.keras") is None
    with pytest.raises(ModelFileError, match=f"{digest}, not 000"):
        load_model(path, sha256="0" * 64)
    with pytest.raises(FileNotFoundError, match="absent.keras"):
        load_model(folder / "absent.keras")


@pytest.mark.parametrize(
    "arguments",
    [
        {"image_shape": (4, 8, 3), "permutation": "shuffle", "depth": 2},
        {"permutation": "reverse", "coupling": "additive", "num_classes": 4},
        {"context_shape": (3,), "num_classes": 4},
        {"class_couplings": True, "num_classes": 4},
        {"context_shape": (3, 2, 5), "network": "residual", "blocks": 1},
        {
            "levels": 3,
            "memory": "remat",
            "dtype": "float64",
            "name": "ä b",
            "border": True,
        },
        {"network": "residual", "blocks": 3, "border": True, "dropout": 0.1},
        {"bits": None, "image_shape": (4, 4, 5)},
        {"bits": 16},
        {"depth": (1, 2)},
    ],
)
def test_the_layout_is_that_of_the_files_that_keras_writes(
    tmp_path, arguments, float64
):
    arguments = {"image_shape": (8, 8, 1), "levels": 2, "depth": 1} | arguments
    model = keras_glow.Glow(**arguments, width=3)
    path = tmp_path / "x.weights.h5"
    adam = keras.optimizers.Adam(use_ema=True)
    model.compile(keras.optimizers.LossScaleOptimizer(adam))
    model.optimizer.build(model.trainable_variables)
    model.save_weights(path)
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item.shape, str(item.dtype)

    with h5py.File(path) as file:
        file.visititems(visit)
    layout = weights_layout(model.get_config())
    layout |= optimizer_layout(model.optimizer)
    assert {n: (w.shape, w.dtype) for n, w in layout.items()} == found


def test_load_weights(folder, model):
    other = make()
    for name in ("model.keras", "model.weights.h5"):
        path = folder / name
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        move_weights(other)
        before = state(other)
        with pytest.raises(ModelFileError, match="its sha256 is"):
            other.load_weights(path, sha256="0" * 64)
        with pytest.raises(FileNotFoundError, match="absent"):
            other.load_weights(folder / f"absent.{name}")
        assert state(other) == before != state(model)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            other.load_weights(str(path), sha256=digest)
        assert state(other) == state(model)
    # With another optimiser the weights alone come.
    other.compile(keras.optimizers.SGD())
    other.optimizer.build(other.trainable_variables)
    move_weights(other)
    with pytest.warns(UserWarning, match="Skipping variable loading"):
        other.load_weights(path)
    assert same(other, model)
    assert int(to_numpy(other.optimizer.iterations)) == 0


LOADERS = {"keras": keras.saving.load_model, "strict": load_model}
ROUND_TRIP = """
import sys
import keras, keras_glow, numpy as np
load = {"keras": keras.saving.load_model, "strict": keras_glow.load_model}
path, loader, images, out = sys.argv[1:]
model = load[loader](path)
np.savez(
    out,
    *[keras.ops.convert_to_numpy(w) for w in model.weights],
    log_prob=model.log_prob(np.load(images), seed=0),
    samples=model.sample(4, seed=0),
)
"""


@pytest.mark.parametrize(
    "weight, value, rule",
    [
        ("actnorm.log_scale", 20.5, "within 20.0"),
        ("coupling.network.norm_1.log_scale", -20.5, "within 20.0"),
        ("permutation.log_s", 20.5, "within 20.0"),
        ("actnorm.bias", np.nan, "finite"),
    ],
)
def test_what_the_loader_would_refuse_is_saved_with_a_warning(
    tmp_path, weight, value, rule
):
    model = keras_glow.Glow((2, 2, 1), levels=1, depth=1, width=2)
    variable = operator.attrgetter(weight)(model.bijections[1])
    variable.assign(ops.full(variable.shape, value))
    path = tmp_path / "model.keras"
    with pytest.warns(UserWarning, match=f"{path} will be.*{rule}"):
        model.save(path)
    with pytest.raises(ModelFileError, match=rule):
        load_model(path)
    for one, two in zip(
        keras.saving.load_model(path).weights, model.weights, strict=True
    ):
        assert_array_equal(to_numpy(one), to_numpy(two))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", *keras_glow.presets.PRESETS])
def test_every_way_to_save_and_load(name, model, tmp_path, record_property):
    if name != "small":
        model = keras_glow.Glow.from_preset(name)
    images = random_images(4, model.image_shape)
    np.save(tmp_path / "images.npy", images)
    log_prob, samples = model.log_prob(images, seed=0), model.sample(4, seed=0)
    model.save(tmp_path / "save.keras")
    save_checkpoint(model, tmp_path / "checkpoint.keras", epoch=0)
    count = 0
    for file, loader in itertools.product(("save", "checkpoint"), LOADERS):
        path = tmp_path / f"{file}.keras"
        loaded = LOADERS[loader](path)
        assert same(loaded, model)
        assert_array_equal(loaded.log_prob(images, seed=0), log_prob)
        assert_array_equal(loaded.sample(4, seed=0), samples)
        # Once more, in a new process.
        found = tmp_path / "found.npz"
        arguments = path, loader, tmp_path / "images.npy", found
        command = [sys.executable, "-c", ROUND_TRIP, *map(str, arguments)]
        subprocess.run(command, check=True)
        with np.load(found) as found:
            assert_array_equal(found["log_prob"], log_prob)
            assert_array_equal(found["samples"], samples)
            for i, weight in enumerate(model.weights):
                assert_array_equal(found[f"arr_{i}"], to_numpy(weight))
        count += 2
    record_property(
        f"ways to save and load the {name} model that give equal bits: "
        "weights, samples, log_prob",
        f"{count} of {count}",
    )


# What is wrong is refused


def test_hostile_keras_files(tried, content, tmp_path, record_property):
    canary = tmp_path / "canary"
    for file in hostile.keras_files(content, str(canary)):
        tried.file(load_model, *file, ".keras")
        assert not canary.exists()
    assert tried.count >= 200
    tried.report("hostile .keras files", record_property)


def test_other_models_are_refused(tried, model, tmp_path, record_property):
    dense = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    for name, other in (("dense", dense), ("encoder", model.encoder)):
        path = tmp_path / f"{name}.keras"
        other.save(path)
        tried.path(load_model, name, path, "describe a keras_glow>Glow")
    tried.report("valid files of other models", record_property)


@pytest.mark.skipif(os.name != "posix", reason="pipes and links are POSIX")
def test_paths_that_are_no_files(tried, folder, tmp_path, record_property):
    reason = "not a regular file"
    os.mkfifo(tmp_path / "pipe.keras")
    (tmp_path / "folder.keras").mkdir()
    (tmp_path / "zero.keras").symlink_to("/dev/zero")
    (tmp_path / "passwd.keras").symlink_to("/etc/passwd")
    (tmp_path / "tree.keras").symlink_to(tmp_path)
    with open(tmp_path / "large.keras", "wb") as file:
        file.truncate(2**33)
    for name, why in [
        ("pipe", reason),
        ("folder", reason),
        ("zero", reason),
        ("tree", reason),
        ("passwd", "not a .keras file"),
        ("large", "over 4 GiB"),
    ]:
        tried.path(load_model, name, tmp_path / f"{name}.keras", why)
    tried.report("paths that are no model file", record_property)
    # A link to a model is one.
    (tmp_path / "link.keras").symlink_to(folder / "model.keras")
    load_model(tmp_path / "link.keras")


def test_hostile_weights(
    tried, model, content, weights, shuffled, record_property
):
    other, other_content = shuffled
    other_weights = hostile.members(other_content)["model.weights.h5"]
    conv, shuffle = state(model), state(other)
    # Without the optimiser it is three times as fast.
    bare = hostile.with_datasets(weights, hostile.replaced("optimizer", None))
    for file in hostile.weights_files(bare):
        tried.file(model.load_weights, *file, ".weights.h5")
    for file in hostile.optimizer_files(weights):
        tried.file(model.load_weights, *file, ".weights.h5")
    for file in hostile.shuffle_files(other_weights):
        tried.file(other.load_weights, *file, ".weights.h5")
    assert state(model) == conv
    assert state(other) == shuffle
    assert tried.count >= 60
    for original, bad in (
        (content, hostile.weights_files(bare)),
        (other_content, hostile.shuffle_files(other_weights)),
    ):
        files = hostile.members(original)
        for name, data, reason in bad:
            packed = hostile.pack({**files, "model.weights.h5": data})
            tried.file(load_model, name, packed, reason, ".keras")
    tried.report("hostile weights", record_property)


def test_whole_h5_models_are_refused(tried, model, tmp_path, record_property):
    path = tmp_path / "whole.h5"
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(path)
    shutil.copy(path, tmp_path / "whole.weights.h5")
    shutil.copy(path, tmp_path / "whole.keras")
    (tmp_path / "whole.weights.json").write_text("{}")
    before, reason = state(model), "expected to be .weights.h5 or .keras"
    for name, why in (
        ("whole.h5", reason),
        ("whole.weights.json", reason),
        ("whole.weights.h5", "bytes long|is missing"),
    ):
        tried.path(model.load_weights, name, tmp_path / name, why)
    tried.path(load_model, "h5", tmp_path / "whole.keras", "not a .keras file")
    assert state(model) == before
    tried.report("whole .h5 models", record_property)


# Damage


@pytest.mark.parametrize(
    "count", [60, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_damaged_files_never_load_other_weights(
    tmp_path, content, model, count, record_property
):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.keras"
    harmless = 0
    for _ in range(count):
        path.write_bytes(content[: rng.integers(len(content))])
        with pytest.raises(ModelFileError):
            load_model(path)
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            loaded = load_model(path)
        except ModelFileError:
            continue
        assert same(loaded, model)
        assert loaded.get_config() == model.get_config()
        harmless += 1
    record_property("truncated .keras files refused", f"{count} of {count}")
    record_property(
        "flipped bits in a .keras file: refused, harmless, other weights",
        f"{count - harmless}, {harmless}, 0",
    )


@pytest.mark.parametrize(
    "count", [5, pytest.param(1000, marks=pytest.mark.slow)]
)
def test_damaged_weights_files(
    tmp_path, weights, model, count, record_property
):
    """HDF5 has no checksums: a flipped bit may pass, unless sha256 is given."""
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.weights.h5"
    digest = hashlib.sha256(weights).hexdigest()
    other = keras_glow.Glow.from_config(model.get_config())
    unseen = 0
    for _ in range(count):
        path.write_bytes(weights[: rng.integers(len(weights))])
        with pytest.raises(ModelFileError):
            other.load_weights(path)
        flipped = bytearray(weights)
        flipped[rng.integers(len(weights))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(ModelFileError, match="its sha256 is"):
            other.load_weights(path, sha256=digest)
        try:
            other.load_weights(path)
            unseen += not same(other, model)
        except ModelFileError:
            pass
    record_property(
        "truncated .weights.h5 files refused", f"{count} of {count}"
    )
    record_property(
        "flipped bits in a .weights.h5 file that load other weights: "
        "without sha256, with it",
        f"{unseen} of {count}, 0 of {count}",
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-4, 12)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["float32", "shuffle", "keras.layers", "Lambda"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=5,
)


def mutated(document, data):
    """The document with one value, at any depth, replaced or taken away."""
    while True:
        keys = sorted(document) if isinstance(document, dict) else None
        keys = keys or list(range(len(document)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(document[key], (dict, list)) and document[key]:
            if data.draw(st.booleans()):
                document = document[key]
                continue
        action = data.draw(st.sampled_from(["replace", "drop", "add"]))
        if action == "drop":
            del document[key]
        elif action == "replace" or isinstance(document, list):
            document[key] = data.draw(JSON)
        else:
            document[data.draw(st.text(max_size=8))] = data.draw(JSON)
        return


@pytest.mark.parametrize(
    "count", [50, pytest.param(3000, marks=pytest.mark.slow)]
)
def test_mutated_configurations(
    folder, content, count, record_property, tmp_path
):
    document = json.loads(hostile.members(content)["config.json"])
    # What stands in `compile_config` may change as it likes.
    text = json.dumps(document | {"compile_config": {"loss": None}})
    path = tmp_path / "mutated.keras"
    outcomes = {"refused": 0, "loaded": 0}

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data):
        if data.draw(st.booleans()):
            document = json.loads(text)
            for _ in range(data.draw(st.integers(1, 3))):
                mutated(document, data)
            changed = json.dumps(document).encode()
        else:
            changed = bytearray(text.encode())
            for _ in range(data.draw(st.integers(1, 3))):
                at = data.draw(st.integers(0, len(changed) - 1))
                changed[at] = data.draw(st.integers(0, 255))
            changed = bytes(changed)
        path.write_bytes(hostile.with_text(content, changed))
        try:
            load_model(path)
            outcomes["loaded"] += 1
        except ModelFileError:
            outcomes["refused"] += 1

    check()
    record_property(
        "mutated configurations: refused, loaded, other exceptions",
        f"{outcomes['refused']}, {outcomes['loaded']}, 0",
    )


def test_a_large_model_is_not_built_of_a_small_file(
    tmp_path, content, monkeypatch
):
    def build(*args, **kwargs):
        raise AssertionError("a model was built")

    monkeypatch.setattr(keras_glow.Glow, "from_config", build)
    path = tmp_path / "large.keras"
    for arguments in ({"depth": 2}, {"width": 5}, {"num_classes": 2}):
        path.write_bytes(hostile.with_arguments(content, **arguments))
        with pytest.raises(ModelFileError, match="weight"):
            load_model(path)


def test_what_is_watched_is_seen(tmp_path):
    """The other tests would pass if `watch` saw nothing."""
    _, cost = watch.run(lambda: np.ones(2**24, "uint8").sum())
    assert np.isnan(cost.megabytes) or 10 < cost.megabytes < 100
    for act, event in [
        (lambda: exec("1"), "exec"),
        (lambda: os.system("true"), "os.system"),
        (lambda: subprocess.run(["true"]), "subprocess.Popen"),
        (lambda: open("/dev/null", "w").close(), "open"),
        (lambda: os.open("/dev/null", os.O_WRONLY), "open"),
        (lambda: os.rmdir("/absent"), "os.rmdir"),
    ]:
        _, cost = watch.run(act)
        assert any(seen.startswith(event) for seen in cost.misdeeds)
    _, cost = watch.run(lambda: (tmp_path / "file").write_text("text"))
    assert cost.misdeeds == []


@pytest.mark.every_backend
def test_ways_of_keras_to_save_weights(tmp_path):
    models = [
        keras_glow.Glow((4, 4, 1), levels=1, depth=1, width=2, seed=seed)
        for seed in (1, 2)
    ]
    one, other = models
    one.compile("adam")
    images = np.zeros((4, 4, 4, 1), "uint8")
    expected = one.encode(images)

    def check(load):
        other.set_weights([0 * w for w in other.get_weights()])
        load(other)
        assert_array_equal(other.encode(images), expected)

    missing = tmp_path / "a" / "b" / "model.weights.h5"
    one.save_weights(missing)
    check(lambda model: model.load_weights(missing))
    check(lambda model: model.load_weights(str(missing), skip_mismatch=False))
    check(lambda model: keras.saving.load_weights(model, missing))
    name = os.fsencode(tmp_path / "bytes.weights.h5")
    one.save_weights(name)
    check(lambda model: model.load_weights(name))
    one.save(os.fsencode(tmp_path / "bytes.keras"))
    check(lambda model: model.load_weights(tmp_path / "bytes.keras"))
    (tmp_path / "link.weights.h5").symlink_to("a/b/model.weights.h5")
    missing.write_bytes(b"")
    one.save_weights(tmp_path / "link.weights.h5")
    assert (tmp_path / "link.weights.h5").is_symlink()
    check(lambda model: model.load_weights(missing))
    before = other.get_weights()
    with pytest.raises(ValueError, match="^`skip_mismatch` is expected .*$"):
        other.load_weights(missing, skip_mismatch=True)
    with pytest.raises(ValueError, match="^`max_shard_size` is expected .*$"):
        one.save_weights(tmp_path / "a.weights.json", max_shard_size=1)
    with pytest.raises(OSError, match="^.* cannot be written: it is a folder$"):
        (tmp_path / "folder.weights.h5").mkdir()
        one.save_weights(tmp_path / "folder.weights.h5")
    for now, then in zip(other.get_weights(), before, strict=True):
        assert_array_equal(now, then)

"""The guarded optimiser: the same updates, and none that is not finite."""

import keras
import numpy as np
import pytest
from helpers import random_images, to_numpy
from keras import ops
from numpy.testing import assert_allclose, assert_array_equal

import keras_glow
from keras_glow.training.optimizer import (
    ELEMENTWISE,
    GuardedOptimizer,
    batches_seen,
    guarded,
)

pytestmark = pytest.mark.every_backend
SHAPES = [(3, 2), (4,), (), (2, 1, 3)]

OPTIMIZERS = {
    **{kind.__name__: (kind, {}) for kind in ELEMENTWISE},
    "momentum": (keras.optimizers.SGD, {"momentum": 0.9, "nesterov": True}),
    "amsgrad": (keras.optimizers.Adam, {"amsgrad": True}),
    "averages": (keras.optimizers.Adam, {"use_ema": True, "ema_momentum": 0.9}),
    "global_clipnorm": (keras.optimizers.Adam, {"global_clipnorm": 0.1}),
    "clipvalue": (keras.optimizers.SGD, {"clipvalue": 0.1}),
    "weight_decay": (keras.optimizers.SGD, {"weight_decay": 0.1}),
    "accumulation": (
        keras.optimizers.Adam,
        {"gradient_accumulation_steps": 2},
    ),
}
# These look at each weight as a whole.
WHOLE = {
    "Lamb": (keras.optimizers.Lamb, {}),
    "clipnorm": (keras.optimizers.SGD, {"clipnorm": 0.1}),
    "whole averages": (
        keras.optimizers.SGD,
        {"use_ema": True, "ema_overwrite_frequency": 2},
    ),
}


# On JAX each of them is compiled: these are those that differ most.
ON_JAX = ("SGD", "accumulation", "averages", "whole averages")


def new_variables():
    rng = np.random.default_rng(0)
    return [
        keras.Variable(rng.normal(size=shape), dtype="float32", name=f"w{i}")
        for i, shape in enumerate(SHAPES)
    ]


def new_gradients(step, bad=None):
    rng = np.random.default_rng(100 + step)
    gradients = [rng.normal(size=shape) for shape in SHAPES]
    if bad is not None:
        gradients[1][2] = bad
    return [ops.convert_to_tensor(g, "float32") for g in gradients]


def apply(optimizer, gradients, variables):
    """One step, as the trainer of the backend takes it."""
    if keras.backend.backend() != "jax":
        optimizer.apply(gradients, variables)
        return
    new = optimizer.stateless_apply(
        [v.value for v in optimizer.variables],
        gradients,
        [v.value for v in variables],
    )
    for variable, value in zip(
        [*variables, *optimizer.variables], [*new[0], *new[1]], strict=True
    ):
        variable.assign(value)


def values(variables):
    return [to_numpy(v).copy() for v in variables]


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ON_JAX
        else pytest.param(name, marks=pytest.mark.slow_on_jax)
        for name in (*OPTIMIZERS, *WHOLE)
    ],
)
def test_updates_are_those_of_the_optimizer_inside(name):
    kind, arguments = {**OPTIMIZERS, **WHOLE}[name]
    found = []
    for wrap in (lambda optimizer: optimizer, guarded):
        variables = new_variables()
        optimizer = wrap(kind(learning_rate=0.1, **arguments))
        optimizer.build(variables)
        for step in range(4):
            apply(optimizer, new_gradients(step), variables)
        found.append(values(variables))
        if arguments.get("use_ema"):
            optimizer.finalize_variable_values(variables)
            found[-1] += values(variables)
    assert optimizer.packed == (name in OPTIMIZERS)
    assert int(optimizer.iterations) == 4 // arguments.get(
        "gradient_accumulation_steps", 1
    )
    for expected, actual in zip(*found, strict=True):
        assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["averages", "momentum", "Lamb"])
# The square of the last is not finite.
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_step_that_is_not_finite_leaves_no_trace(name, bad):
    if name == "momentum" and bad == 1e30:
        pytest.skip("it squares nothing")
    kind, arguments = {**OPTIMIZERS, **WHOLE}[name]
    variables = new_variables()
    optimizer = guarded(kind(learning_rate=0.1, **arguments))
    optimizer.build(variables)
    apply(optimizer, new_gradients(0), variables)
    state = [*variables, *optimizer.variables]
    counters = (optimizer.skipped, optimizer.skipped_in_a_row)
    state = [v for v in state if not any(v is c for c in counters)]
    before = values(state)
    for number in (1, 2):
        apply(optimizer, new_gradients(1, bad), variables)
        assert [int(c) for c in counters] == [number, number]
    for expected, actual in zip(before, values(state), strict=True):
        assert_array_equal(actual, expected)
    apply(optimizer, new_gradients(1), variables)
    assert [int(c) for c in counters] == [2, 0]
    assert int(optimizer.iterations) == 2


def test_frozen_and_missing_gradients():
    variables = new_variables()
    optimizer = guarded("adam")
    optimizer.build(variables)
    if keras.backend.backend() == "jax":
        pytest.skip("on JAX Keras hands over all that it was built with")
    before = values(variables)
    for step in range(2):
        gradients = new_gradients(step)
        gradients[2] = None
        optimizer.apply(gradients[1:], variables[1:])
    after = values(variables)
    for number, moved in enumerate([False, True, False, True]):
        assert np.any(after[number] != before[number]) == moved


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_makes_its_gradient_so(bad):
    optimizer = guarded("adam")
    assert float(optimizer.scale_loss(ops.convert_to_tensor(2.0))) == 2
    scaled = optimizer.scale_loss(ops.convert_to_tensor(bad))
    assert np.isnan(to_numpy(scaled))


def test_config_and_learning_rate():
    optimizer = guarded(keras.optimizers.AdamW(0.25, use_ema=True))
    optimizer.build(new_variables())
    optimizer.learning_rate = 0.5
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(optimizer)
    )
    assert isinstance(copy, GuardedOptimizer)
    assert isinstance(copy.inner_optimizer, keras.optimizers.AdamW)
    assert copy.use_ema and copy.inner_optimizer.use_ema
    assert float(copy.learning_rate) == 0.5


def test_what_is_guarded_already_stays():
    optimizer = guarded("adam")
    assert guarded(optimizer) is optimizer
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    assert guarded(scaled) is scaled
    assert guarded(scaled, "float16") is scaled


def test_networks_in_float16_have_a_loss_scale():
    scaled = guarded(guarded("adam"), "float16")
    assert isinstance(scaled, keras.optimizers.LossScaleOptimizer)
    assert isinstance(scaled.inner_optimizer, GuardedOptimizer)
    assert guarded(scaled, "float16") is scaled
    assert isinstance(guarded("adam", "bfloat16"), GuardedOptimizer)


@pytest.mark.slow_on_jax
def test_a_loss_scale_goes_on_in_the_next_fit_and_from_a_file(tmp_path):
    images = random_images(4, (4, 4, 1))
    model = keras_glow.Glow(
        (4, 4, 1), levels=1, depth=1, width=2, network_dtype="float16"
    )
    model.compile("sgd")
    model.fit(images, verbose=0)
    model.optimizer.dynamic_scale.assign(8.0)
    model.save(tmp_path / "model.keras")
    for again in (model, keras.saving.load_model(tmp_path / "model.keras")):
        again.fit(images, verbose=0)
        assert float(to_numpy(again.optimizer.dynamic_scale)) == 8
        assert len(again.optimizer.variables) == len(model.optimizer.variables)
        names = [variable.path for variable in again.optimizer.variables]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.Adam(1e-3),
        keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
    ],
    ids=["plain", "accumulation", "loss scale"],
)
def test_batches_seen(optimizer):
    optimizer = guarded(optimizer, None)
    guards = isinstance(optimizer, GuardedOptimizer)
    if not guards and keras.backend.backend() == "jax":
        pytest.skip("on JAX a loss scale takes no step eagerly")
    weights = [keras.Variable(np.ones(n, "float32")) for n in (2, 3)]
    optimizer.build(weights)
    for value in (1, 1, np.nan, 1, 1, 1):
        grads = [keras.ops.full(w.shape, value, "float32") for w in weights]
        optimizer.apply(grads, weights)
    # A loss scale counts no step that it leaves out.
    assert batches_seen(optimizer) == (6 if guards else 5)

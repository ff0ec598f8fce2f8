"""The conformance test of every bijection: a new layer is one new line."""

import json

import keras
import numpy as np
import pytest
from helpers import flat, flat_tensor, jacobians, move_weights, to_numpy
from keras import ops
from numpy.testing import assert_allclose

from keras_glow import layers


@keras.saving.register_keras_serializable(package="tests")
class OwnNetwork(keras.layers.Layer):
    """A coupling network as a user may write one."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.conv = keras.layers.Conv2D(
            channels, 3, padding="same", dtype=self.dtype_policy
        )

    def build(self, input_shape):
        self.conv.build(input_shape)

    def call(self, x):
        return ops.tanh(self.conv(x))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable(package="tests")
def own_function(x):
    return ops.concatenate([ops.sin(x), ops.cos(x)], axis=-1)


@keras.saving.register_keras_serializable(package="tests")
def own_function_of_two(inputs):
    x, context = inputs
    one, other = ops.split(context, 2, axis=-1)
    return ops.concatenate([ops.sin(x + one), ops.cos(x) * other], axis=-1)


def step(**kwargs):
    return lambda **dtype: layers.FlowStep(width=8, seed=1, **kwargs, **dtype)


def coupling(cls, **kwargs):
    return lambda **dtype: cls(width=8, seed=1, **kwargs, **dtype)


def standardize(**dtype):
    layer = layers.Standardize(**dtype)
    layer.adapt(np.random.default_rng(1).normal(5, 3, (8, 4, 2, 4)))
    return layer


def whitened(**kwargs):
    layer = layers.InvertibleConv1x1(seed=1, **kwargs)
    layer.build((None, 4, 2, 4))
    layer.whiten(ops.cast(WHITENED, layer.dtype))
    return layer


WHITENED = np.cumsum(
    np.random.default_rng(2).normal(3, 2, (99, 4, 2, 4)), axis=-1
).astype("float32")


# Most have the shape of others, so that JAX compiles their operations once.
CASES = {  # id: (layer of a dtype, shape of one example)
    "actnorm": (layers.ActNorm, (4, 2, 4)),
    "standardize": (standardize, (4, 2, 4)),
    "reverse": (layers.Reverse, (4, 2, 4)),
    "shuffle": (lambda **k: layers.Shuffle(seed=1, **k), (4, 2, 8)),
    "conv_lu": (lambda **k: layers.InvertibleConv1x1(seed=1, **k), (4, 2, 4)),
    "conv_lu_whitened": (whitened, (4, 2, 4)),
    "conv_whitened": (lambda **k: whitened(lu=False, **k), (4, 2, 4)),
    "conv": (
        lambda **k: layers.InvertibleConv1x1(lu=False, seed=1, **k),
        (4, 2, 4),
    ),
    "affine": (coupling(layers.AffineCoupling), (4, 2, 4)),
    "affine_odd": (coupling(layers.AffineCoupling), (4, 2, 5)),
    "affine_sigmoid": (
        coupling(layers.AffineCoupling, scale="sigmoid"),
        (4, 2, 4),
    ),
    "affine_border": (coupling(layers.AffineCoupling, border=True), (4, 2, 4)),
    "affine_exp": (coupling(layers.AffineCoupling, scale="exp"), (4, 2, 4)),
    "affine_own_layer": (
        lambda **k: layers.AffineCoupling(network=OwnNetwork(4, **k), **k),
        (4, 2, 4),
    ),
    "affine_own_function": (
        lambda **k: layers.AffineCoupling(network=own_function, **k),
        (4, 2, 4),
    ),
    "affine_residual": (
        coupling(layers.AffineCoupling, network="residual", border=True),
        (4, 2, 4),
    ),
    "additive": (coupling(layers.AdditiveCoupling), (4, 2, 4)),
    "squeeze": (layers.Squeeze, (4, 2, 4)),
    "squeeze_3": (lambda **k: layers.Squeeze(factor=3, **k), (6, 3, 2)),
    "split": (layers.Split, (4, 2, 4)),
    "split_odd": (layers.Split, (4, 2, 5)),
    "split_of_classes": (
        lambda **k: layers.Split(num_classes=5, **k),
        (4, 2, 4),
    ),
    "split_border": (lambda **k: layers.Split(border=True, **k), (4, 2, 4)),
    "prior": (layers.GaussianPrior, (4, 2, 4)),
    "prior_of_classes": (
        lambda **k: layers.GaussianPrior(num_classes=5, **k),
        (4, 2, 4),
    ),
    "affine_context": (
        coupling(layers.AffineCoupling, context_channels=2),
        (4, 2, 4),
    ),
    "affine_own_function_context": (
        lambda **k: layers.AffineCoupling(
            network=own_function_of_two, context_channels=2, **k
        ),
        (4, 2, 4),
    ),
    "additive_residual_context": (
        coupling(
            layers.AdditiveCoupling, network="residual", context_channels=2
        ),
        (4, 2, 4),
    ),
    "split_of_classes_context": (
        lambda **k: layers.Split(num_classes=5, context_channels=2, **k),
        (4, 2, 4),
    ),
    "prior_context": (
        lambda **k: layers.GaussianPrior(context_channels=2, **k),
        (4, 2, 4),
    ),
    "step": (step(), (4, 2, 4)),
    "step_context": (step(context_channels=2), (4, 2, 4)),
    "step_shuffle": (step(permutation="shuffle"), (4, 2, 4)),
    "step_reverse": (step(permutation="reverse"), (4, 2, 4)),
    "step_additive": (step(coupling="additive"), (4, 2, 4)),
    "step_residual": (step(network="residual", blocks=1), (4, 2, 4)),
}


class Case:
    """A layer moved off its initial weights, and a batch for it."""

    def __init__(self, name, dtype):
        create, self.shape = CASES[name]
        self.dtype = dtype
        self.layer = create(dtype=dtype)
        rng = np.random.default_rng(0)
        self.x = rng.normal(size=(3, *self.shape)).astype(dtype)
        self.given = given_to(self.layer, dtype, self.shape)
        self.layer(self.inputs(self.x))
        move_weights(self.layer)

    def inputs(self, x):
        return inputs_of(x, self.given)

    def symbolic(self, tensors):
        """Symbolic inputs of the shape of tensors, and of what follows them."""
        inputs = keras.tree.map_structure(
            lambda t: keras.Input(t.shape[1:], dtype=self.dtype), tensors
        )
        given = [keras.Input(a.shape[1:], dtype=a.dtype) for a in self.given]
        return [*keras.tree.flatten(inputs), *given] if given else inputs


def given_to(layer, dtype="float32", shape=(1, 1, 1), count=3):
    """Arrays of what a layer is conditioned on, after its inputs."""
    rng = np.random.default_rng(1)
    values = {
        "labels": np.resize(np.array([1, 4, 1], "int32"), count),
        "context": rng.normal(size=(count, *shape[:2], 2)).astype(dtype),
    }
    return [values[name] for name in layer.conditioned_on]


def inputs_of(x, given):
    if not given:
        return x
    x = keras.tree.flatten(x)
    copies = len(x[0]) // len(given[0])  # of each example
    tensors = *x, *(np.repeat(array, copies, axis=0) for array in given)
    return [ops.convert_to_tensor(tensor) for tensor in tensors]


@pytest.fixture(params=CASES)
def case(request, float64):
    return Case(request.param, "float64")


@pytest.fixture(params=CASES)
def case32(request):
    return Case(request.param, "float32")


def check_round_trip(case, tolerance):
    z = case.layer(case.inputs(case.x))
    x = case.layer.inverse(case.inputs(z))
    assert_allclose(flat(x), flat(case.x), atol=tolerance)
    again = case.layer(case.inputs(x))
    assert_allclose(flat(again), flat(z), atol=10 * tolerance)


def check_log_det(case, tolerance):
    log_det = to_numpy(case.layer.log_det(case.inputs(case.x)))
    assert log_det.shape == (len(case.x),)
    assert log_det.dtype == case.dtype

    def forward(x):
        z = keras.tree.flatten(case.layer(case.inputs(x)))
        return flat_tensor(ops.concatenate(z, axis=-1))

    matrices = jacobians(forward, case.x)
    expected = np.linalg.slogdet(matrices).logabsdet
    assert_allclose(log_det, expected, rtol=tolerance, atol=tolerance)
    if not isinstance(case.layer, (layers.Squeeze, layers.FlowStep)):
        check_log_det_by_position(case, matrices, tolerance)


def check_log_det_by_position(case, matrices, tolerance):
    """What a place adds is the log-det of z there with respect to x there."""
    _, log_det = case.layer(case.inputs(case.x), summed=False)
    *size, channels = case.shape
    pixels = np.prod(size)
    blocks = matrices.reshape(-1, *2 * (pixels, channels))
    blocks = np.einsum("bpcpd->bpcd", blocks)
    expected = np.linalg.slogdet(blocks).logabsdet.reshape(-1, *size)
    log_det = to_numpy(log_det)
    if log_det.ndim == 1:
        log_det = np.tile(log_det[:, None, None] / pixels, size)
    else:
        log_det = log_det.sum(-1)
    assert_allclose(log_det, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.every_backend
def test_inverse_undoes_forward(case):
    check_round_trip(case, 1e-11)


def test_inverse_undoes_forward_in_float32(case32):
    check_round_trip(case32, 1e-4)


@pytest.mark.every_backend
def test_log_det_is_that_of_the_autodiff_jacobian(case):
    check_log_det(case, 1e-9)


@pytest.mark.slow
def test_log_det_is_that_of_the_autodiff_jacobian_in_float32(case32):
    check_log_det(case32, 1e-5)


@pytest.mark.every_backend
def test_only_the_forward_pass_adds_the_negated_mean_log_det(case32):
    layer, inputs = case32.layer, case32.inputs(case32.x)
    log_det = to_numpy(layer.log_det(inputs))
    assert layer.losses == []
    z = layer(inputs)
    assert_allclose(
        [to_numpy(loss) for loss in layer.losses],
        [-np.mean(log_det)],
        rtol=1e-6,
    )
    layer.inverse(case32.inputs(z))
    assert layer.losses == []


@pytest.mark.every_backend
def test_a_carried_log_det_is_added_to_and_adds_no_loss(case32):
    layer, inputs = case32.layer, case32.inputs(case32.x)
    before = np.array([1.0, 2.0, 3.0], "float32")
    _, total = layer(inputs, log_det=before)
    assert layer.losses == []
    own = to_numpy(layer.log_det(inputs))
    assert_allclose(to_numpy(total), before + own, rtol=1e-6)


@pytest.mark.every_backend
def test_models_of_both_directions_share_weights_and_survive_saving(
    case32, tmp_path
):
    layer, inputs = case32.layer, case32.inputs(case32.x)
    z = layer(inputs)
    image = case32.symbolic(case32.x)
    encoder = keras.Model(image, layer(image))
    latents = case32.symbolic(z)
    decoder = keras.Model(latents, layer.inverse(latents))
    assert {id(w) for w in decoder.weights} == {id(w) for w in layer.weights}
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    assert_allclose(flat(loaded(inputs)), flat(z), atol=1e-6)
    decoder.save(tmp_path / "decoder.keras")
    loaded = keras.saving.load_model(tmp_path / "decoder.keras")
    assert_allclose(flat(loaded(case32.inputs(z))), flat(case32.x), atol=1e-4)


def test_symbolic_tensors_are_like_those_they_stand_for(case):
    outputs = case.layer(case.inputs(case.x), log_det=0.0)
    symbolic = case.layer(case.symbolic(case.x), log_det=0.0)
    z = keras.tree.map_structure(to_numpy, outputs[0])
    pairs = [
        *zip(*map(keras.tree.flatten, (symbolic, outputs)), strict=True),
        (case.layer.inverse(case.symbolic(z)), case.x),
    ]
    for tensor, value in pairs:
        assert tensor.shape == (None, *value.shape[1:])
        assert tensor.dtype == "float64"


@pytest.mark.every_backend
@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch.compile is not XLA"
)
def test_both_directions_run_under_xla():
    """All in one program, which takes a sixth of the time of one for each.

    Steps are left out, whose parts are there: `fit` of a model runs them.
    """
    names = [name for name in CASES if not name.startswith("step")]
    cases = {name: Case(name, "float32") for name in names}
    images = {name: case.x for name, case in cases.items()}
    latents = {
        name: case.layer(case.inputs(case.x)) for name, case in cases.items()
    }
    for given, method in ((images, "__call__"), (latents, "inverse")):
        inputs, outputs, expected = {}, {}, {}
        for name, case in cases.items():
            call = getattr(case.layer, method)
            symbolic = case.symbolic(given[name])
            inputs[name] = keras.tree.flatten(symbolic)
            outputs[name] = keras.tree.flatten(call(symbolic))
            expected[name] = call(case.inputs(given[name]))
        model = keras.Model(*map(keras.tree.flatten, (inputs, outputs)))
        model.jit_compile = True
        arrays = {n: case.inputs(given[n]) for n, case in cases.items()}
        found = model.predict_on_batch(keras.tree.flatten(arrays))
        found = keras.tree.pack_sequence_as(outputs, found)
        for name in cases:
            assert_allclose(
                *(flat(found[name]), flat(expected[name])),
                rtol=1e-4,
                atol=1e-4,
                err_msg=f"{name} {method}",
            )


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("half", ["mixed_bfloat16", "float16"])
def test_the_flow_is_float32_under_any_policy(name, half, policy):
    policy(half)
    create, shape = CASES[name]
    layer = create()
    case = Case.__new__(Case)
    case.given = given_to(layer, shape=shape)
    x = np.random.default_rng(0).normal(size=(3, *shape)).astype("float32")
    z = layer(case.inputs(x))
    move_weights(layer, 0.1)
    z, log_det = layer(case.inputs(x), log_det=0.0)
    for tensor in (*keras.tree.flatten(z), log_det):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
    # A network of one's own follows the policy, in both directions alike.
    own = "own" in name
    assert own or {w.dtype for w in layer.weights} <= {"float32", "int32"}
    tolerance = 0.1 if own else 1e-4
    assert_allclose(
        flat(layer.inverse(case.inputs(z))), flat(x), atol=tolerance
    )


@pytest.mark.every_backend
def test_config_round_trip(case32):
    layer = case32.layer
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    expected, actual = layer.get_config(), again.get_config()
    if "network" in expected:  # a layer's own configuration
        assert bool(expected.pop("network")) == bool(actual.pop("network"))
    assert actual == expected


@pytest.mark.every_backend
@pytest.mark.parametrize("name", CASES)
def test_the_inverse_may_come_first(name):
    case = Case(name, "float32")
    z = keras.tree.map_structure(to_numpy, case.layer(case.inputs(case.x)))
    fresh = CASES[name][0](dtype="float32")
    x = fresh.inverse(case.inputs(z))
    assert x.shape == case.x.shape
    assert len(fresh.weights) == len(case.layer.weights)


@pytest.mark.every_backend
def test_every_public_bijection_has_a_case():
    tested = {type(create()) for create, _ in CASES.values()}
    public = {getattr(layers, name) for name in layers.__all__}
    assert public - {layers.Bijection} == tested


@pytest.mark.every_backend
@pytest.mark.parametrize("name", CASES)
def test_images_may_have_any_size(name, tmp_path):
    create, (height, width, channels) = CASES[name]
    layer = create()
    given = given_to(layer)  # a context of one pixel fits all sizes
    inputs = keras.Input((None, None, channels))
    if given:
        more = [keras.Input(a.shape[1:], dtype=a.dtype) for a in given]
        inputs = [inputs, *more]
    if isinstance(layer, layers.GaussianPrior):  # its weights have a size
        with pytest.raises(ValueError, match="^GaussianPrior expects.*known"):
            layer(inputs)
        return
    model = keras.Model(inputs, layer(inputs))
    move_weights(layer)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    for size in ((height, width), (2 * height, 3 * width)):
        x = rng.normal(size=(3, *size, channels)).astype("float32")
        x = [x, *given] if given else x
        fixed = create()
        z = fixed(x)
        fixed.set_weights(layer.get_weights())
        z, log_det = fixed(x, log_det=0.0)
        runs = [model]  # at both sizes
        if size != (height, width):
            runs += [layer, model.predict_on_batch, loaded]
        for run in runs:
            assert_allclose(flat(run(x)), flat(z), rtol=1e-5, atol=1e-5)
        assert_allclose(
            to_numpy(layer.log_det(x)), to_numpy(log_det), rtol=1e-5
        )
        latents = [*keras.tree.flatten(z), *given]
        latents = latents[0] if len(latents) == 1 else latents
        images = x[0] if given else x
        assert_allclose(flat(layer.inverse(latents)), flat(images), atol=1e-4)


@pytest.mark.every_backend
@pytest.mark.parametrize("name", CASES)
def test_other_shapes_are_refused_in_one_line(name):
    create, shape = CASES[name]
    channels = shape[-1]
    new, built = create(), Case(name, "float32").layer
    given = given_to(new, shape=shape, count=2)
    vectors = np.zeros((2, channels), "float32")
    # What only moves channels takes vectors too.
    if not isinstance(new, (layers.Reverse, layers.Shuffle)):
        for layer in (new, built):
            for x in (vectors, keras.Input((channels,)), vectors[None]):
                x = [x, *given] if given else x
                for call in (layer, layer.inverse, layer.log_det):
                    with pytest.raises(ValueError, match="^.* expects .*$"):
                        call(x)
    if isinstance(new, (layers.Reverse, layers.Squeeze)):
        return  # They have no weights.
    wider = np.zeros((2, *shape[:2], channels + 2), "float32")
    with pytest.raises(ValueError, match=f"^.* expects .*{channels}.*$"):
        built([wider, *given] if given else wider)


FORMS = {  # ways in which an array of the same numbers may be held
    "big_endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "float64": lambda x: x.astype(">f8"),
    "fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "objects": lambda x: x.astype(object),
    "nothing_masked": np.ma.array,
}


@pytest.mark.every_backend
@pytest.mark.parametrize("form", FORMS)
def test_an_array_of_any_form_is_what_its_plain_copy_is(form):
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 4)).astype("float32")
    other = FORMS[form](x)
    layer, adapted, expected = step()(), layers.ActNorm(), layers.ActNorm()
    for call in (layer, layer.inverse, layer.log_det):
        assert_allclose(to_numpy(call(other)), to_numpy(call(x)), atol=1e-6)
    adapted.adapt(other)
    expected.adapt(x)
    assert_allclose(to_numpy(adapted(x)), to_numpy(expected(x)), atol=1e-6)


@pytest.mark.every_backend
def test_masked_values_are_refused():
    x = np.ma.array(
        np.zeros((1, 2, 2, 4)), mask=np.arange(16).reshape(1, 2, 2, 4) == 3
    )
    with pytest.raises(ValueError, match="^`inputs` .* 1 values masked$"):
        step()()(x)

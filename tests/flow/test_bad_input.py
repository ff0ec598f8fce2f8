"""Bad input at the doors of a model, a layer and the models inside: one line.

Keras makes several lines of what is raised in `call`.
"""

import numpy as np
import pytest
from helpers import to_numpy
from numpy.testing import assert_array_equal

import keras_glow

X = np.zeros((2, 4, 4, 1), "float32")
HALF = "mixed_float16"
CLASSES = keras_glow.Glow((4, 4, 1), levels=1, depth=1, width=2, num_classes=2)


@pytest.fixture(scope="module")
def flow():
    return keras_glow.Glow((4, 4, 1), levels=1, depth=1, width=2)


@pytest.mark.every_backend
@pytest.mark.parametrize(
    "call",
    [
        lambda flow: flow(X),
        lambda flow: flow(X.astype("uint8")[:, :3]),
        lambda flow: flow(X.astype("uint8")[0]),
        lambda flow: flow((X.astype("uint8"), np.zeros(2, "int32"))),
        lambda flow: flow("image.png"),
        lambda flow: flow.predict(X[:, :3], verbose=0),
        lambda flow: flow.encoder(X[:, :3]),
        lambda flow: flow.encoder(X[0]),
        lambda flow: flow.encoder(np.repeat(X, 2, axis=-1)),
        lambda flow: flow.encoder("image.png"),
        lambda flow: flow.encoder([X, X]),
        lambda flow: flow.scorer(X[..., :0]),
        lambda flow: flow.decoder(np.zeros((2, 17), "float32")),
        lambda flow: flow.decoder(np.zeros(16, "float32")),
        lambda flow: flow.bijections[1]("image.png"),
        lambda flow: flow.bijections[1](np.zeros((2, 2, 2, 4), "bool")),
        lambda flow: flow.bijections[1](np.zeros((2, 2, 2, 4), "complex64")),
        lambda flow: flow.bijections[1]({"image": X}),
        lambda flow: flow.bijections[1](X),
        lambda flow: flow.bijections[1].inverse(X[0]),
        lambda flow: flow.bijections[0](X[:, :3]),
        lambda flow: CLASSES.encoder([X, np.zeros(3, "int32")]),
        lambda flow: flow.bijections[0](np.full((2, 4, 4, 1), "1")),
        *(
            lambda flow, part=part: setattr(part(flow), "dtype_policy", HALF)
            for part in (
                lambda flow: flow,
                lambda flow: flow.encoder,
                lambda flow: flow.encoder.layers[-1],
                lambda flow: flow.bijections[1],
                lambda flow: flow.bijections[1].coupling.network,
            )
        ),
    ],
)
def test_bad_input_is_told_in_one_line(flow, call):
    with pytest.raises(ValueError, match="expect") as caught:
        call(flow)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.every_backend
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float64", "float16"])
def test_layers_take_numbers_of_any_kind(flow, dtype):
    step = flow.bijections[1]
    x = np.arange(2 * 2 * 2 * 4).reshape(2, 2, 2, 4)
    expected = to_numpy(step(x.astype("float32")))
    assert_array_equal(to_numpy(step(x.astype(dtype))), expected)
    back = to_numpy(step.inverse(x.astype(dtype)))
    assert_array_equal(back, to_numpy(step.inverse(x.astype("float32"))))

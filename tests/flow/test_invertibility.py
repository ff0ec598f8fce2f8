"""Nothing lost: pixels come back, matrices invert, probabilities sum to 1."""

import keras
import numpy as np
import pytest
from helpers import faces, move_weights, random_images, to_numpy

from keras_glow import Glow
from keras_glow.analysis.probes import condition_number
from keras_glow.flow.initialization import initialize
from keras_glow.layers import InvertibleConv1x1


def off_its_start(model, images, steps):
    """Trains for some steps, or moves the weights at random for none."""
    if steps:
        model.compile(keras.optimizers.Adam(1e-3))
        epochs = -(-16 * steps // len(images))
        model.fit(images, batch_size=16, epochs=epochs, verbose=0)
    else:
        move_weights(model, 0.02)
        initialize(model.encoder, model.dequantize(images, seed=0))


@pytest.mark.parametrize(
    "count, depth, steps, seeds, global_policy",
    [
        pytest.param(32, 2, 0, 1, "mixed_bfloat16", id="quick"),
        pytest.param(
            1000, 32, 150, 3, "float32", marks=pytest.mark.slow, id="float32"
        ),
        pytest.param(
            1000,
            32,
            150,
            1,
            "mixed_bfloat16",
            marks=pytest.mark.slow,
            id="mixed_bfloat16",
        ),
    ],
)
def test_every_pixel_comes_back(
    count, depth, steps, seeds, global_policy, policy, record_property
):
    policy(global_policy)
    images = faces(count + 400)
    images, others = images[:count], images[count:]
    wrong = 0
    for seed in range(seeds):
        model = Glow((32, 32, 3), levels=3, depth=depth, width=16, seed=seed)
        off_its_start(model, others, steps)
        z = model.encode(images)
        assert z.dtype == "float32"
        wrong += np.count_nonzero(model.decode(z) != images)
    record_property(
        f"pixel values that do not come back, {seeds} x {count} images through "
        f"{3 * depth} steps of flow, policy {global_policy}",
        f"{wrong} of {seeds * images.size:,}",
    )
    assert wrong == 0


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(100, id="quick"),
        pytest.param(2000, marks=pytest.mark.slow, id="full"),
    ],
)
def test_matrices_invert_after_too_high_a_learning_rate(steps, record_property):
    model = Glow((8, 8, 3), levels=2, depth=2, width=8)
    model.compile(keras.optimizers.Adam(1e-2))  # ten times that of `compile`
    images = random_images(320, (8, 8, 3))
    model.fit(images, batch_size=32, epochs=steps // 10, verbose=0)
    convolutions = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, InvertibleConv1x1)
    ]
    assert len(convolutions) == 4
    conditions, errors = [], []
    for layer in convolutions:
        conditions.append(condition_number(layer))
        w, inverse = to_numpy(layer.matrix()), to_numpy(layer.inverse_matrix())
        product = w.astype("float64") @ inverse.astype("float64")
        errors.append(np.max(np.abs(product - np.eye(len(w)))))
    after = f"after {steps} steps at ten times the learning rate"
    record_property(f"condition number of W {after}", f"{max(conditions):.3g}")
    record_property(
        f"largest entry of W W^-1 - I {after}", f"{max(errors):.1e}"
    )
    assert max(conditions) > 1.1  # it moved
    assert max(conditions) <= 1e4
    assert max(errors) <= 1e-5


@pytest.mark.parametrize(
    "kwargs",
    [
        {"coupling": "affine", "permutation": "invertible_conv"},
        {"coupling": "additive", "permutation": "shuffle", "num_classes": 2},
    ],
    ids=["affine", "additive"],
)
def test_probabilities_of_all_images_sum_to_1(kwargs, record_property):
    """Every image of four pixels and 16 grey levels there is: 65,536.

    With noise at the centre of the bins, their sum is the integral of the
    density by the midpoint rule. The density has to be wide beside a bin, and
    narrow beside the cube of all images, whatever the first weights, which each
    backend draws for itself: so the weights are moved but a little.
    """
    model = Glow((2, 2, 1), levels=1, depth=2, width=8, bits=4, **kwargs)
    move_weights(model, 0.05)
    rng = np.random.default_rng(0)
    data = 0.09 * rng.normal(size=(512, 2, 2, 1)).astype("float32")
    labels = None
    if model.num_classes:
        labels = np.ones(16**4, "int32")
        data = [data, labels[:512]]
    for step in model.bijections[1:3]:  # They have not been set from data yet.
        for weight in step.actnorm.trainable_weights:
            weight.assign(0 * weight)
    initialize(model.encoder, data)
    axes = 4 * [16 * np.arange(16, dtype="uint8")]
    every = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2, 2, 1)
    assert len(np.unique(every.reshape(-1, 4), axis=0)) == 16**4
    log_prob = model.log_prob(
        every, seed="center", labels=labels, batch_size=8192
    )
    total = np.sum(np.exp(log_prob.astype("float64")))
    record_property(
        "sum of the probabilities of all images of a toy model, "
        f"{model.coupling}",
        f"{total:.5f}",
    )
    assert abs(total - 1) <= 1e-3

"""The contract of every flow layer: call, inverse, log_det."""

import random
import typing

import keras
import numpy as np
from keras import ops

from keras_glow.backend.keras_internals import (
    KeepsLosses,
    PassesTrainableOn,
)
from keras_glow.backend.process import flow_precision, turn_off_tf32
from keras_glow.checks import (
    bad_input,
    check_integer,
    describe,
    kind_of,
    plain_arrays,
    refuse,
)
from keras_glow.layers.programs import run
from keras_glow.losses import flow_dtype, negative_mean, settled_policy

IMAGE, LABELS = 4, 1  # numbers of dimensions
WORDS = {IMAGE: "(batch, height, width, channels)", LABELS: "(batch,)"}
CONDITIONS = {"labels": LABELS, "context": IMAGE}


def height_and_width(x):
    """Returns the size of images `(batch, height, width, channels)`.

    It is two ints, or scalar tensors where only a running program knows it.
    """
    _, height, width, _ = x.shape
    if height is None or width is None:
        _, height, width, _ = ops.shape(x)
    return height, width


def split_channels(x, first):
    """Returns the first so many channels of x, and the others."""
    # Two slices would cost more: the gradient of each fills a tensor of zeros.
    # Splitting into two equal halves takes fewer TensorFlow operations than
    # splitting at indices.
    return ops.split(x, 2 if x.shape[-1] == 2 * first else [first], axis=-1)


def per_example(log_det):
    """Returns the sum of each example: `(batch, ...)` to `(batch,)`."""
    axes = tuple(range(1, log_det.ndim))
    return ops.sum(log_det, axis=axes) if axes else log_det


def forward_in_turn(bijections, x, given):
    """Returns `(z, log_det)` of one `_forward` after another.

    Each gets what it is conditioned on of a dict.
    """
    total = 0.0
    for bijection in bijections:
        x, log_det = bijection._forward(x, **_own(bijection, given))
        total = total + per_example(log_det)
    return x, total


def inverse_in_turn(bijections, z, given):
    """Returns x of one `_inverse` after another, the last one first."""
    for bijection in reversed(bijections):
        z = bijection._inverse(z, **_own(bijection, given))
    return z


def _own(bijection, given):
    return {name: given[name] for name in bijection.conditioned_on}


def pixel_count(x):
    """Returns height times width of images, to multiply floats with."""
    height, width = height_and_width(x)
    count = height * width
    return ops.cast(count, x.dtype) if ops.is_tensor(count) else count


def weights_generator(seed):
    """Returns a NumPy generator for initial weights.

    Without a seed it follows `keras.utils.set_random_seed`, as the initialisers
    of Keras do.
    """
    return np.random.default_rng(
        random.getrandbits(32) if seed is None else seed
    )


class Bijection(PassesTrainableOn, KeepsLosses, keras.layers.Layer):
    """An invertible map `x -> z` that knows its log-determinant.

    Subclass it with two methods:

    - `_forward(x)` returns `(z, log_det)`, where `log_det` is
      `log|det dz/dx|` in nats, image side to latent side, one value per
      example: shape `(batch,)`, zeros if the map preserves volume. Where it is
      a sum over positions it may stay one, `(batch, height, width, channels)`,
      for `Glow.log_prob_map`.
    - `_inverse(z)` returns `x`.

    Everything else follows: `z = layer(x)`, `x = layer.inverse(z)` and
    `layer.log_det(x)`, eagerly, on symbolic Keras tensors, under `fit` and XLA.
    Both directions go through `__call__` of the same object, so models built
    from either share the weights. Variables are float32 (or float64) under any
    dtype policy, see `keras_glow.losses.flow_dtype`.

    A map that depends on more than x names it in `conditioned_on`. The tensors
    then follow x, or z, in a list, and reach `_forward` and `_inverse` by name.

    Args:
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: `x`, or `z` if `inverse`; a list of it and of what the map is
            conditioned on.
        log_det: optional tensor `(batch,)` or 0.0, the log-determinant gathered
            by the layers before. Given it, the layer returns
            `(z, log_det + its own)` and adds no loss; without it the layer
            adds the loss `-mean(its own)` and returns `z` alone. `Glow` carries
            the sum to one loss at the end: on JAX, Keras drops some of the
            losses that many layers of one graph add.
        inverse: bool, whether to map `z` back to `x`; adds no loss.
        summed: bool; if False, the layer returns `(z, log_det)` with its own
            log-determinant as `_forward` gives it, and adds no loss.
        perturbation: for `Chain` only. A zero tensor shaped like `x`; if given,
            `inputs` is `z`, and the call returns
            `_rebuild(z, perturbation)`.
        training: bool; only the networks inside a layer use it.

    Example:
    >>> class Double(Bijection):
    ...     def _forward(self, x):
    ...         batch, *shape = x.shape
    ...         return 2 * x, ops.full((batch,), np.prod(shape) * np.log(2.0))
    ...     def _inverse(self, z):
    ...         return z / 2
    >>> layer = Double()
    >>> z = layer(np.ones((1, 2, 2, 3)))
    >>> float(layer.losses[0])  # -12 log 2
    -8.3177...
    """

    # Numbers of dimensions of the inputs of `_forward`, and of those of
    # `_inverse` if they are others; None takes any.
    input_ranks: tuple[int, ...] | None = None
    latent_ranks: tuple[int, ...] | None = None
    built_channels = None  # the number that the weights are for, if they are
    # Keys of `CONDITIONS`, in the order in which they follow the inputs.
    conditioned_on = ()
    context_channels = None
    level = 0  # in the flow: which level's features of a context it takes
    dtype_policy = settled_policy

    def __init__(self, **kwargs):
        kwargs["dtype"] = flow_dtype(kwargs.get("dtype"))
        super().__init__(**kwargs)
        turn_off_tf32()

    def __call__(self, inputs, *args, **kwargs):
        # Keras makes several lines of an error that `call` raises.
        if isinstance(inputs, dict):
            refuse("inputs", "a tensor, or a list of them", inputs)
        inputs = keras.tree.map_structure(
            self._numbers, plain_arrays(inputs, tensors=True)
        )
        shapes = [tuple(np.shape(t)) for t in keras.tree.flatten(inputs)]
        self._check_shapes(shapes, kwargs.get("inverse", False))
        return run(self, super().__call__, inputs, *args, **kwargs)

    def _numbers(self, tensor):
        """Refuses what holds no real numbers; integers become floats."""
        kind = kind_of(tensor)
        if kind not in "iuf":
            refuse("inputs", "tensors of real numbers", tensor)
        if kind == "f" or len(tensor.shape) < 2:  # labels stay integers
            return tensor
        return ops.cast(tensor, self.compute_dtype)

    def _check_shapes(self, shapes, inverse):
        """Refuses inputs by their shapes, in which a size may be None."""
        ranks = self.input_ranks
        if inverse and self.latent_ranks:
            ranks = self.latent_ranks
        given = [CONDITIONS[name] for name in self.conditioned_on]
        if ranks and tuple(map(len, shapes)) != (*ranks, *given):
            expected = " and ".join(WORDS[rank] for rank in (*ranks, *given))
            self._refuse(f"inputs {expected}", *shapes)
        shapes = shapes[: len(shapes) - len(given)]
        channels = sum(shape[-1] or 0 for shape in shapes if shape[1:])
        if self.built_channels not in (None, channels):
            self._refuse(f"{self.built_channels} channels", *shapes)

    def _refuse(self, expected, *shapes):
        shape = shapes[0] if len(shapes) == 1 else shapes
        raise bad_input(
            f"{type(self).__name__} expects {expected}. "
            f"Received: shape={describe(shape)}"
        )

    def call(
        self,
        inputs,
        log_det=None,
        inverse=False,
        perturbation=None,
        summed=True,
        training=None,
    ):
        inputs, given = self._split_off(inputs)
        # Keras hands `training` on to the layers called inside.
        with flow_precision():
            if perturbation is not None:
                (z, own_log_det), x = self._rebuild(
                    inputs, perturbation, **given
                )
                return (z, per_example(own_log_det)), x
            if inverse:
                return self._inverse(inputs, **given)
            z, own_log_det = self._forward(inputs, **given)
        if not summed:
            return z, own_log_det
        own_log_det = per_example(own_log_det)
        if log_det is None:
            self.add_loss(negative_mean(own_log_det))
            return z
        return z, log_det + own_log_det

    def _take_labels(self, num_classes):
        """Has labels follow the inputs, unless `num_classes` is None."""
        if num_classes is not None:
            num_classes = check_integer("num_classes", num_classes, 1)
            self.conditioned_on = (*self.conditioned_on, "labels")
        self.num_classes = num_classes

    def _take_context(self, channels):
        """Has a context follow the inputs, unless `channels` is None."""
        if channels is not None:
            self.context_channels = check_integer(
                "context_channels", channels, 1
            )
            self.conditioned_on = (*self.conditioned_on, "context")

    def _split_off(self, inputs):
        """Returns the inputs, or their shapes, and what follows them by name.

        A list of one is returned as the one.
        """
        count = len(self.conditioned_on)
        if not count:
            return inputs, {}
        own, given = list(inputs[:-count]), inputs[-count:]
        if len(own) == 1:
            (own,) = own
        return own, dict(zip(self.conditioned_on, given, strict=True))

    def compute_output_spec(self, inputs, **kwargs):
        # By itself Keras would ask `compute_output_shape`, which knows of no
        # log-determinant.
        return keras.Operation.compute_output_spec(self, inputs, **kwargs)

    def compute_output_shape(self, input_shape):
        # `keras.layers.TimeDistributed` needs it.
        inputs = keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, self.compute_dtype),
            input_shape,
        )
        outputs = self.compute_output_spec(inputs)
        return keras.tree.map_structure(lambda z: z.shape, outputs)

    def _output_spec(self, shape, log_det, inverse):
        """Returns what `compute_output_spec` does, given the output's shape."""
        image = keras.KerasTensor(shape, self.compute_dtype)
        if inverse or log_det is None:
            return image
        return image, keras.KerasTensor(shape[:1], self.compute_dtype)

    def inverse(self, z: typing.Any) -> typing.Any:
        """Maps `z` back to `x` through this layer's own weights."""
        return self(z, inverse=True)

    def log_det(self, x: typing.Any) -> typing.Any:
        """Returns `log|det dz/dx|` in nats, shape `(batch,)`; adds no loss."""
        return self(x, log_det=0.0)[1]

    def parts(self) -> tuple:
        """Returns the bijections that make up this one, or itself alone."""
        return (self,)

    def zero_log_det(self, x: typing.Any) -> typing.Any:
        """Returns a log-determinant of 0 per example: shape `(batch,)`."""
        x = keras.tree.flatten(x)[0]
        return ops.zeros(ops.shape(x)[:1], self.compute_dtype)

    def _forward(self, x):
        raise NotImplementedError(
            f"{type(self).__name__} must define `_forward(x) -> (z, log_det)`."
        )

    def _inverse(self, z):
        raise NotImplementedError(
            f"{type(self).__name__} must define `_inverse(z) -> x`."
        )

    def _rebuild(self, z, perturbation, **given):
        """Goes back to `x`, and forward from there: `((z, log_det), x)`.

        The backward pass takes its gradients from here when no activations were
        stored. `perturbation` is zero and has the shape of `x`: the gradient
        with respect to it is the gradient with respect to `x`. No gradient goes
        through the inverse.
        """
        x = ops.stop_gradient(self._inverse(z, **given)) + perturbation
        return self._forward(x, **given), x

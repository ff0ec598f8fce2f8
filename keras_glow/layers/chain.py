"""Several bijections in a row, and what is kept of them for training."""

import functools

import keras
import numpy as np
from keras import ops

from keras_glow.gradients import custom_gradient, differentiate, wait_for

# How far off a rebuilt input may be: in machine epsilons of its largest value.
MAX_ERROR = 1000


@keras.saving.register_keras_serializable(package="keras_glow")
class Chain(keras.layers.Layer):
    """Bijections one after another, trained without most of their activations.

    The backward pass needs what the forward pass computed, most of all inside
    the coupling networks. Keras stores it, so memory grows with the number of
    bijections. Here it is computed once more, for one bijection at a time:

    - `"remat"` stores the input of every bijection and runs each again.
    - `"reversible"` stores the last output alone. The inverse of each bijection
      gives its input, from the last to the first. The gradients are those at
      inputs that are off by what the inverses are off: see `check_inverses`.

    What comes out, and the weights, are those of the bijections called one by
    one. They must do the same when run again: no dropout inside.

    Args:
        bijections: list of `Bijection` that keep the shape of their input.
        memory: `"remat"` or `"reversible"`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        x: float tensor `(batch, height, width, channels)`.
        log_det: tensor `(batch,)` or 0.0, as in `Bijection`.
        training: bool.

    Returns:
        Tuple of z, shaped like x, and the log-determinant `(batch,)` in nats.

    Reference:
        Gomez et al., 2017, The Reversible Residual Network: Backpropagation
        Without Storing Activations, https://arxiv.org/abs/1707.04585
    """

    def __init__(self, bijections, memory="reversible", **kwargs):
        super().__init__(**kwargs)
        self.bijections = list(bijections)
        self.memory = memory
        self.checking = False  # see keras_glow.initialization

    def build(self, input_shape):
        for bijection in self.bijections:
            if not bijection.built:
                bijection.build(input_shape)

    def call(self, x, log_det=0.0, training=None):
        if any(getattr(e, "adapting", False) for e in self._flatten_layers()):
            # Weights are assigned in this pass, which no pure function may do.
            for bijection in self.bijections:
                x, log_det = bijection(x, log_det=log_det)
            return x, log_det
        if self.checking:
            self.check_inverses(x, training)
        links = self.bijections
        if self.memory == "reversible":
            # The finest parts: a coupling alone can run its network once both
            # for its inverse and for its gradient.
            links = [part for link in links for part in link.parts()]
        links = [_Link(link, training) for link in links]
        weights = [w for link in links for w in link.weights()]
        passes = _passes(links, self.memory)
        z, own_log_det = custom_gradient(*passes, [x, *weights])
        return z, log_det + own_log_det

    def check_inverses(self, x, training=None):
        """Refuses bijections whose inverse is not accurate enough.

        It goes forward and all the way back, as training does.

        Args:
            x: float array `(batch, height, width, channels)`.
            training: bool, whether to compute as in training.

        Raises:
            ValueError: naming the first bijection, on the way back, whose
                input comes back with an error of more than `MAX_ERROR` machine
                epsilons of the largest value of the input.
        """
        inputs = []
        for bijection in self.bijections:
            inputs.append(x)
            x, _ = bijection(x, log_det=0.0, training=training)
        epsilon = np.finfo(self.compute_dtype).eps
        for bijection in reversed(self.bijections):
            x = bijection(x, inverse=True, training=training)
            expected = inputs.pop()
            error = ops.max(ops.abs(x - expected)) / ops.max(ops.abs(expected))
            error = float(ops.convert_to_numpy(error)) / epsilon
            if not error <= MAX_ERROR:  # nan is refused too
                raise ValueError(
                    'memory="reversible" expects inverses that are accurate to '
                    f"{MAX_ERROR} epsilons. Received: {bijection.name}, whose "
                    f"input comes back with an error of {error:.0f}"
                )

    def get_config(self):
        return {
            **super().get_config(),
            "bijections": [
                keras.saving.serialize_keras_object(bijection)
                for bijection in self.bijections
            ],
            "memory": self.memory,
        }

    @classmethod
    def from_config(cls, config):
        bijections = [
            keras.saving.deserialize_keras_object(bijection)
            for bijection in config["bijections"]
        ]
        return cls(**{**config, "bijections": bijections})


class _Link:
    """A bijection as pure functions, of its weights too."""

    def __init__(self, bijection, training):
        self.bijection = bijection
        self.training = training

    def weights(self):
        return [variable.value for variable in self.bijection.variables]

    def run(self, x, *weights):
        """`((z, log_det), x)`."""
        return self._call(x, weights, log_det=0.0), x

    def rebuild(self, z, nudge, *weights):
        """`((z, log_det), x)`, see `Bijection._rebuild`."""
        return self._call(z, weights, nudge=nudge)

    def _call(self, tensor, weights, **kwargs):
        mapping = zip(self.bijection.variables, weights, strict=True)
        with keras.StatelessScope(state_mapping=mapping):
            # Compilers run this long after the call of the chain is over, so
            # `training` has to be handed on.
            return self.bijection(tensor, training=self.training, **kwargs)


def _passes(links, memory):
    """The forward and backward pass that `custom_gradient` takes."""

    def grouped(weights):
        weights = iter(weights)
        for link in links:
            yield link, [next(weights) for _ in link.bijection.variables]

    def forward(x, *weights):
        inputs, log_det = [], 0.0
        for link, own in grouped(weights):
            inputs.append(x)
            (x, own_log_det), _ = link.run(x, *own)
            log_det = log_det + own_log_det
        kept = inputs if memory == "remat" else [x]
        return (x, log_det), (kept, list(weights))

    def backward(kept, x_gradient, log_det_gradient):
        kept, weights = kept
        kept, gradients = list(kept), []
        latest = [x_gradient]
        for link, own in reversed(list(grouped(weights))):
            # Nothing of a link may run before all of the next one is done, or
            # the activations of both, and so of all, would be there at once.
            start, *own = wait_for([kept.pop(), *own], latest)
            if memory == "remat":
                tensors, function = [start, *own], link.run
            else:
                tensors = [ops.zeros_like(start), *own]
                function = functools.partial(link.rebuild, start)
            x, latest = differentiate(
                function, tensors, (x_gradient, log_det_gradient)
            )
            x_gradient = latest[0]
            gradients = latest[1:] + gradients
            if memory == "reversible":
                kept.append(x)
        return [x_gradient, *gradients]

    return forward, backward

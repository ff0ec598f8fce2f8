"""A chain of bijections, and how much training stores of it."""

import contextlib
import functools
import weakref

import keras
from keras import ops

from keras_glow.backend import (
    custom_gradient,
    differentiate,
    flatten,
    is_float,
    order_after,
    pack,
    shared_trace,
    token_of,
)
from keras_glow.backend.keras_internals import all_layers
from keras_glow.checks import bad_input
from keras_glow.layers.programs import is_repeatable, kind_of
from keras_glow.layers.residual_network import ResidualNetwork
from keras_glow.layers.sequence import Given, relative_error, round_trip

MEMORY = ("store", "remat", "reversible")
# Largest error of a rebuilt input, relative to its largest value; `None` if
# networks compute in half precision. Half precision rounds to 4e-3 anyway; a
# tiny error of its input can only flip a few of these roundings.
MAX_ERRORS = {"float64": 1e-11, "float32": 2e-5, None: 2e-2}


@keras.saving.register_keras_serializable(package="keras_glow")
class Chain(keras.layers.Layer):
    """Applies bijections in turn; `memory` says what training stores of them.

    The backward pass needs the activations of the forward pass, most of which
    are inside the coupling networks.

    - `"store"` keeps it all: memory grows with the number of bijections.
    - `"remat"` keeps the input of every bijection and runs each again.
    - `"reversible"` stores the last output alone. The inverse of each bijection
      gives its input, from the last to the first. The gradients are computed
      at these inputs, which carry the error of the inverses: see
      `check_inverses`.

    The outputs and the weights are the same as if the bijections were called
    one by one. A bijection must compute the same when it is run again, so the
    only dropout that it may hold is that of a `ResidualNetwork`. On TensorFlow
    a compiled program holds each kind of bijection once, however many there
    are, since tracing them is most of the start-up time; not so under XLA, see
    `share_traces`.

    Args:
        bijections: list of `Bijection` that keep the shape of their input.
        memory: `"store"`, `"remat"` or `"reversible"`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, or the list of
            it and of the context of the bijections.
        log_det: tensor `(batch,)` or 0.0, as in `Bijection`.
        inverse: bool, whether to map z back to x.
        training: bool.

    Returns:
        Tuple of z, shaped like x, and the log-determinant `(batch,)` in nats;
        the inverse returns x alone.

    Reference:
        Gomez et al., 2017, The Reversible Residual Network: Backpropagation
        Without Storing Activations, https://arxiv.org/abs/1707.04585
    """

    def __init__(self, bijections, memory="store", **kwargs):
        super().__init__(**kwargs)
        self.bijections = list(bijections)
        self.memory = memory
        self.checking = False  # see `checking_inverses`
        self.share_traces = True  # see `share_traces`

    @property
    def conditioned_on(self):
        """See `Bijection`."""
        return self.bijections[0].conditioned_on if self.bijections else ()

    @property
    def level(self):
        """See `Bijection`."""
        return self.bijections[0].level

    def build(self, input_shape):
        for bijection in self.bijections:
            if not bijection.built:
                bijection.build(input_shape)

    def compute_output_spec(
        self, inputs, log_det=0.0, inverse=False, training=None
    ):
        # The shapes are known without running it, which takes a while.
        x, *_ = keras.tree.flatten(inputs)
        image = keras.KerasTensor(x.shape, self.compute_dtype)
        if inverse:
            return image
        return image, keras.KerasTensor(x.shape[:1], self.compute_dtype)

    def inverse(self, z):
        """Maps `z` back to `x` through the inverses, the last one first."""
        return self(z, inverse=True)

    def call(self, inputs, log_det=0.0, inverse=False, training=None):
        x, *context = keras.tree.flatten(inputs)
        if any(getattr(e, "adapting", False) for e in all_layers(self)):
            # This pass assigns weights, which a pure function may not do.
            for bijection in self.bijections:
                x, log_det = bijection(
                    [x, *context] if context else x, log_det=log_det
                )
            return x, log_det
        steps = self._steps(training)
        if inverse:
            return _inverse(steps, x, context)
        if self.checking:
            self.check_inverses(x, context, training)
        variables = [step.variables for step in steps]
        values = [v.value for v in flatten(variables)]
        if networks := [n for step in steps for n in step.networks]:
            # Each step renews its masks, but forgets that it did. The backward
            # pass needs the states before, which Torch changes in place.
            values = [v if is_float(v) else ops.copy(v) for v in values]
            for network in networks:
                network.renew_masks()

        tensors = [x, *context, *values]
        count = len(context)

        def forward(x, *more):
            weights = pack(variables, more[count:])
            return _forward(steps, x, more[:count], weights)

        if self.memory == "store":
            (z, own_log_det), _ = forward(*tensors)
            return z, log_det + own_log_det

        def backward(kept, *gradients):
            return _backward(steps, *kept, *gradients)

        z, own_log_det = custom_gradient(forward, backward, tensors)
        return z, log_det + own_log_det

    def _steps(self, training):
        """Returns a `_Step` of each bijection."""
        settings = self.memory, training, self.share_traces
        plans = _plans.setdefault(self, {})
        if settings not in plans:
            programs = {}
            plans[settings] = [
                _Step(b, *settings, programs) for b in self.bijections
            ]
        return plans[settings]

    def check_inverses(self, x, context=(), training=None):
        """Refuses bijections whose inverse is not accurate enough.

        It goes forward and all the way back, as training does. `x` is a float
        array `(batch, height, width, channels)`, `context` a list of that of
        the bijections, if they take one.

        Raises:
            ValueError: naming the first bijection, on the way back, whose
                input comes back with an error of more than `MAX_ERRORS` allows,
                relative to its largest value.
        """
        half = any(
            getattr(layer, "low_precision", None) for layer in all_layers(self)
        )
        limit = MAX_ERRORS[None if half else self.compute_dtype]
        x = ops.convert_to_tensor(x, self.compute_dtype)
        with keras.StatelessScope():  # it uses up no masks of dropout
            for bijection, expected, _, actual in round_trip(
                self.bijections,
                x,
                Given(features=dict.fromkeys([self.level], *context)),
                training,
            ):
                error = relative_error(expected, actual)
                if not error <= limit:  # nan is refused too
                    raise bad_input(
                        'memory="reversible" expects inverses with a relative '
                        f"error of {limit:.0e} at most. Received: "
                        f"{bijection.name}, whose input comes back with an "
                        f"error of {error:.0e}"
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


@contextlib.contextmanager
def checking_inverses(model):
    """Makes the reversible chains of a model check their inverses when called.

    Yields whether the model has any.
    """
    chains = [layer for layer in _chains(model) if layer.memory == "reversible"]
    for chain in chains:
        chain.checking = True
    try:
        yield bool(chains)
    finally:
        for chain in chains:
            chain.checking = False


def share_traces(model, shared):
    """Sets whether equal bijections of the chains in a model share one trace.

    They should not under XLA, which compiles called functions far more slowly
    than inlined ones.
    """
    for chain in _chains(model):
        chain.share_traces = shared


def _chains(model):
    return [layer for layer in all_layers(model) if isinstance(layer, Chain)]


def networks_with_dropout(layer):
    """Returns the networks in a layer that draw masks of dropout."""
    return [
        inner
        for inner in all_layers(layer)
        if isinstance(inner, ResidualNetwork) and inner.dropout
    ]


def _forward(steps, x, context, weights):
    """Returns `(z, log_det)`, and the tensors that `_backward` needs."""
    once = {}
    inputs, log_det = [], 0.0
    for step, own in zip(steps, weights, strict=True):
        inputs.append(x)
        run = step.once(once, step.forward)
        x, own_log_det = run(x, context, own)
        log_det = log_det + own_log_det
    kept = [x] if steps[0].memory == "reversible" else inputs
    return (x, log_det), (kept, context, weights)


def _inverse(steps, z, context):
    """Maps z back to x, the last step first."""
    once = {}
    for step in reversed(steps):
        run = step.once(once, step.inverse)
        values = [[v.value for v in part] for part in step.variables]
        z = run(z, context, values)
    return z


def _backward(steps, kept, context, weights, gradient, log_det_gradient):
    """Computes gradients of x, context and weights, the last step first."""
    once = {}
    kept, gradients = list(kept), []
    context_gradients = [0.0 for _ in context]
    token = token_of([gradient])
    for step, own in reversed(list(zip(steps, weights, strict=True))):
        run = step.once(once, step.backward)
        x, gradient, more, own_gradients, token = run(
            kept.pop(), context, own, gradient, log_det_gradient, token
        )
        gradients.insert(0, own_gradients)
        context_gradients = [
            sum(pair) for pair in zip(context_gradients, more, strict=True)
        ]
        if step.memory == "reversible":
            kept.append(x)
    return [gradient, *context_gradients, *flatten(gradients)]


# What the calls of a chain have in common, by `memory`, `training` and
# `share_traces`: a list of `_Step`.
_plans = weakref.WeakKeyDictionary()


class _Step:
    """A bijection as pure functions: its weights are arguments.

    Steps of one `kind` differ in nothing but their weights, so the functions of
    one of them serve for all.
    """

    def __init__(self, bijection, memory, training, share_traces, programs):
        self.memory = memory
        self.training = training
        self.share_traces = share_traces
        # A coupling that is called by itself can run its network once for both
        # its inverse and its gradient. Without the inverse it is simpler to
        # run the whole step.
        reversible = memory == "reversible"
        self.parts = bijection.parts() if reversible else (bijection,)
        self.variables = [list(part.variables) for part in self.parts]
        self.kind = kind_of(bijection)
        self.networks = networks_with_dropout(bijection) if training else []
        self.programs = None
        if is_repeatable(bijection, training):
            self.programs = programs.setdefault(self.kind, {})

    def once(self, traced, function):
        """Returns the function, or the one of an earlier step of this kind."""
        if not self.share_traces:
            return function
        programs = self.programs
        if programs is not None:
            programs = programs.setdefault(function.__name__, {})
        return traced.setdefault(self.kind, shared_trace(function, programs))

    def forward(self, x, context, weights):
        """Returns `(z, log_det)`."""
        total = 0.0
        for part, own in zip(self.parts, weights, strict=True):
            x, log_det = self._call(part, own, x, context, log_det=0.0)
            total = total + log_det
        return x, total

    def inverse(self, z, context, weights):
        """Maps z back to x."""
        for part, own in reversed(list(zip(self.parts, weights, strict=True))):
            z = self._call(part, own, z, context, inverse=True)
        return z

    def backward(
        self, start, context, weights, gradient, log_det_gradient, token
    ):
        """Goes back through the step, from the gradient of z to that of x.

        Args:
            start: z if reversible, or else x.
            context: list of the context, if the step takes one.
            weights: nested like `variables`.
            gradient: gradient of z.
            log_det_gradient: gradient of the log-determinant.
            token: depends on everything that must be computed before. If this
                step began earlier, the activations of all steps would be in
                memory at once.

        Returns:
            Tuple of x, its gradient, the gradients of the context and of the
            weights, and a token that depends on these gradients.
        """
        flat = [start, *flatten(weights)]
        x, *flat = [order_after(tensor, token) for tensor in flat]
        weights = pack(weights, flat)
        gradients, context_gradients = [], []
        for part, own in reversed(list(zip(self.parts, weights, strict=True))):
            more = context if part.conditioned_on else []
            if self.memory == "reversible":
                function = functools.partial(self._rebuild, part, len(more), x)
                tensors = [ops.zeros_like(x), *more, *own]
            else:
                function = functools.partial(self._repeat, part, len(more))
                tensors = [x, *more, *own]
            x, (gradient, *others) = differentiate(
                function, tensors, (gradient, log_det_gradient)
            )
            context_gradients += others[: len(more)]  # of one part at most
            gradients.insert(0, others[len(more) :])
        token = token_of([gradient, *flatten(gradients)])
        return x, gradient, context_gradients, gradients, token

    def _repeat(self, part, count, x, *more):
        context, weights = more[:count], more[count:]
        return self._call(part, weights, x, context, log_det=0.0), x

    def _rebuild(self, part, count, z, perturbation, *more):
        context, weights = more[:count], more[count:]
        return self._call(part, weights, z, context, perturbation=perturbation)

    def _call(self, part, weights, tensor, context, **kwargs):
        if part.conditioned_on:
            tensor = [tensor, *context]
        with keras.StatelessScope(zip(part.variables, weights, strict=True)):
            # The backward pass runs after the call of the chain has ended, so
            # `training` has to be passed on explicitly.
            return part(tensor, training=self.training, **kwargs)

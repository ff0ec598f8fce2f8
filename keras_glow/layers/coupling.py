"""The base class of affine and additive coupling."""

import keras
from keras import ops

from keras_glow.checks import (
    bad_input,
    check_boolean,
    check_choice,
    check_fraction,
    check_integer,
    check_seed,
    refuse,
)
from keras_glow.layers.bijection import IMAGE, Bijection, split_channels
from keras_glow.layers.coupling_network import CouplingNetwork
from keras_glow.layers.residual_network import ResidualNetwork

NETWORKS = {"paper": CouplingNetwork, "residual": ResidualNetwork}
NETWORK_DTYPES = (None, "float32", "float64", "bfloat16", "float16")


ANY_SIZE = 8  # height and width to try a network in, if they are not known


class _Reads(keras.StatelessScope):
    """A context that notes the variables that are read in it."""

    def __init__(self):
        super().__init__()
        self.variables = {}

    def get_current_value(self, variable):
        self.variables[id(variable)] = variable
        return super().get_current_value(variable)


class Coupling(Bijection):
    """The first half of the channels conditions the map of the second half.

    A subclass says how many outputs the network has for each transformed
    channel (`outputs_per_channel`). Given the network's outputs h, its
    `_transform(x2, h)` maps the second half to `(z2, log_det)`, and its
    `_restore(z2, h)` maps it back.

    Args:
        width: int, hidden channels of the network.
        network: `"paper"` for a `CouplingNetwork`, `"residual"` for a
            `ResidualNetwork`, or a layer or a callable of your own. It maps
            `(batch, height, width, channels // 2)` to `outputs_per_channel`
            times the remaining channels, and must not change height and width;
            the other arguments do not concern it, except that with
            `context_channels` it gets the list of this tensor and the context.
            The weights that a callable uses, such as those of layers in its
            closure, are trained and saved too.
        network_dtype: `"bfloat16"` or `"float16"` to compute the network in
            that dtype while training; `"float32"` for never; None follows the
            layer's `dtype`, or the global dtype policy.
        seed: int 0..2**32 - 1, or None for other initial kernels each time.
        border: bool, whether the network sees where the image ends, see
            `keras_glow.layers.convolution.convolve`.
        blocks: int >= 1, of a `"residual"` network.
        dropout: of a `"residual"` network, see `ResidualNetwork`.
        context_channels: int, or None. With it the network sees a context too,
            and the inputs are `[x, context]`: a float tensor `(batch, height,
            width, context_channels)`, or with a height and width of 1.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).
    """

    input_ranks = (IMAGE,)
    outputs_per_channel: int | None = None

    def __init__(
        self,
        width=512,
        network="paper",
        network_dtype=None,
        seed=None,
        border=False,
        blocks=2,
        dropout=0.0,
        context_channels=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._take_context(context_channels)
        self.seed = check_seed(seed)
        self.width = check_integer("width", width, 1)
        self.border = check_boolean("border", border)
        self.dropout = check_fraction("dropout", dropout)
        self.blocks = check_integer("blocks", blocks, 1)
        network = "paper" if network is None else network  # in older files
        own = callable(network)
        if not (own or network in NETWORKS):
            choices = ", ".join(map(repr, NETWORKS))
            refuse("network", f"{choices}, a layer or a callable", network)
        check_choice("network_dtype", network_dtype, NETWORK_DTYPES)
        self.kind = None if own else network
        self.network = network if own else None
        policy = keras.dtype_policies.get(network_dtype or kwargs.get("dtype"))
        self.network_dtype = policy.compute_dtype

    def build(self, input_shape):
        input_shape, given = self._split_off(input_shape)
        channels = input_shape[-1]
        if channels < 2:
            raise bad_input(
                f"{type(self).__name__} expects at least 2 channels. "
                f"Received: shape={tuple(input_shape)}"
            )
        self.built_channels = channels
        self.conditioning_channels = channels // 2
        outputs = self.outputs_per_channel * (
            channels - self.conditioning_channels
        )
        half_shape = (None, *input_shape[1:-1], self.conditioning_channels)
        if self.kind:
            half = self.network_dtype in ("bfloat16", "float16")
            residual = {"blocks": self.blocks, "dropout": self.dropout}
            self.network = NETWORKS[self.kind](
                self.width,
                outputs,
                low_precision=self.network_dtype if half else None,
                seed=self.seed,
                border=self.border,
                context_channels=self.context_channels,
                dtype=self.dtype,
                name="network",
                **(residual if self.kind == "residual" else {}),
            )
            self.network.build(half_shape)
        elif isinstance(self.network, keras.layers.Layer):
            inputs = [
                keras.KerasTensor(shape, self.compute_dtype)
                for shape in (half_shape, *given.values())
            ]
            h = self.network(inputs if given else inputs[0])
            self._check_network(half_shape, h, outputs)
        else:
            # Keras tracks the weights of a layer, but not those of a function.
            inputs = [
                ops.zeros(
                    [1, *(n or ANY_SIZE for n in shape[1:])], self.compute_dtype
                )
                for shape in (half_shape, *given.values())
            ]
            half_shape = inputs[0].shape
            with _Reads() as reads:
                h = self.network(inputs if given else inputs[0])
            self.network_weights = list(reads.variables.values())
            self._check_network(half_shape, h, outputs)

    def _check_network(self, half_shape, h, outputs):
        _, height, width, _ = half_shape
        if tuple(h.shape[1:]) != (height, width, outputs):
            raise bad_input(
                f"The network of {self.name} is expected to return shape "
                f"(batch, {height}, {width}, {outputs}). "
                f"Received: shape={tuple(h.shape)}"
            )

    def _split(self, x):
        return split_channels(x, self.conditioning_channels)

    def _condition(self, x1, context=None, new_masks=True):
        # A network of one's own knows nothing of masks.
        if self.kind:
            h = self.network(x1, context, new_masks=new_masks)
        else:
            h = self.network(x1 if context is None else [x1, context])
        return ops.cast(h, self.compute_dtype)

    def _forward(self, x, context=None):
        x1, x2 = self._split(x)
        z2, log_det = self._transform(x2, self._condition(x1, context))
        return ops.concatenate([x1, z2], axis=-1), log_det

    def _inverse(self, z, context=None):
        z1, z2 = self._split(z)
        h = self._condition(z1, context, new_masks=False)
        x2 = self._restore(z2, h)
        return ops.concatenate([z1, x2], axis=-1)

    def _rebuild(self, z, perturbation, context=None):
        # Both directions have the same h: the network runs once.
        z1, z2 = self._split(z)
        perturbation1, perturbation2 = self._split(perturbation)
        x1 = z1 + perturbation1
        h = self._condition(x1, context)
        x2 = ops.stop_gradient(self._restore(z2, h)) + perturbation2
        z2, log_det = self._transform(x2, h)
        z = ops.concatenate([x1, z2], axis=-1)
        return (z, log_det), ops.concatenate([x1, x2], axis=-1)

    def get_config(self):
        network = self.kind or keras.saving.serialize_keras_object(self.network)
        return {
            **super().get_config(),
            "width": self.width,
            "network": network,
            "network_dtype": self.network_dtype,
            "seed": self.seed,
            "border": self.border,
            "blocks": self.blocks,
            "dropout": self.dropout,
            "context_channels": self.context_channels,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if isinstance(config.get("network"), dict):
            config["network"] = keras.saving.deserialize_keras_object(
                config["network"]
            )
        return cls(**config)

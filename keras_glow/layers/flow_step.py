"""One step of flow: ActNorm, permutation, coupling."""

import keras

from keras_glow.checks import check_boolean, check_choice
from keras_glow.layers.actnorm import ActNorm
from keras_glow.layers.additive_coupling import AdditiveCoupling
from keras_glow.layers.affine_coupling import AffineCoupling
from keras_glow.layers.bijection import (
    IMAGE,
    Bijection,
    forward_in_turn,
    inverse_in_turn,
)
from keras_glow.layers.invertible_conv import InvertibleConv1x1
from keras_glow.layers.reverse import Reverse
from keras_glow.layers.shuffle import Shuffle

PERMUTATIONS = {
    "invertible_conv": InvertibleConv1x1,
    "shuffle": Shuffle,
    "reverse": Reverse,
}
COUPLINGS = {"affine": AffineCoupling, "additive": AdditiveCoupling}


@keras.saving.register_keras_serializable(package="keras_glow")
class FlowStep(Bijection):
    """ActNorm, then a permutation of the channels, then a coupling.

    - Forward: `z = coupling(permutation(actnorm(x)))`
    - Log-determinant: the sum of the three

    Args:
        permutation: `"invertible_conv"`, `"shuffle"` or `"reverse"`.
        coupling: `"affine"` or `"additive"`.
        width: int, hidden channels of the coupling network.
        scale: the scale function of affine coupling, see `AffineCoupling`.
        network_dtype: see `Coupling`.
        seed: int or None, for the permutation and the coupling network.
        border: see `Coupling`.
        network: `"paper"` or `"residual"`, see `Coupling`.
        blocks, dropout, context_channels: see `Coupling`.
        whiten: bool, whether an invertible 1x1 convolution first whitens its
            inputs, from the data that initialises ActNorm.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, channels >= 2;
            with `context_channels` the list `[x, context]`.

    Raises:
        ValueError: on an unknown permutation or coupling.

    Reference:
        Kingma & Dhariwal, 2018, https://arxiv.org/abs/1807.03039, figure 2a
    """

    input_ranks = (IMAGE,)

    def __init__(
        self,
        permutation: str = "invertible_conv",
        coupling: str = "affine",
        width: int = 512,
        scale: str = "bounded",
        network_dtype: str | None = None,
        seed: int | None = None,
        border: bool = False,
        network: str = "paper",
        blocks: int = 2,
        dropout: float = 0.0,
        context_channels: int | None = None,
        whiten: bool = False,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.whiten = check_boolean("whiten", whiten)
        self._take_context(context_channels)
        check_choice("permutation", permutation, sorted(PERMUTATIONS))
        check_choice("coupling", coupling, sorted(COUPLINGS))
        dtype = kwargs.get("dtype")
        permutation_args = {} if permutation == "reverse" else {"seed": seed}
        scale_args = {"scale": scale} if coupling == "affine" else {}
        network_args = {
            "width": width,
            "seed": seed,
            "border": border,
            "network": network,
            "blocks": blocks,
            "dropout": dropout,
            "context_channels": context_channels,
        }
        self.actnorm = ActNorm(name="actnorm", dtype=dtype)
        self.permutation = PERMUTATIONS[permutation](
            name="permutation", dtype=dtype, **permutation_args
        )
        self.coupling = COUPLINGS[coupling](
            network_dtype=network_dtype,
            name="coupling",
            dtype=dtype,
            **scale_args,
            **network_args,
        )
        self.arguments = {
            "permutation": permutation,
            "coupling": coupling,
            "scale": scale,
            "network_dtype": self.coupling.network_dtype,
            "whiten": self.whiten,
            **network_args,
        }

    def parts(self):
        return self.actnorm, self.permutation, self.coupling

    def build(self, input_shape):
        shape, _ = self._split_off(input_shape)
        self.built_channels = shape[-1]
        self.actnorm.build(shape)
        self.permutation.build(shape)
        self.coupling.build(input_shape)

    def compute_output_spec(
        self, inputs, log_det=None, inverse=False, **kwargs
    ):
        # The shapes are known without running it, which takes a while.
        x, _ = self._split_off(inputs)
        return self._output_spec(x.shape, log_det, inverse)

    def _forward(self, x, **given):
        return forward_in_turn(self.parts(), x, given)

    def _inverse(self, z, **given):
        return inverse_in_turn(self.parts(), z, given)

    def get_config(self):
        return {**super().get_config(), **self.arguments}

"""A fixed random permutation of the channels."""

import keras
from keras import ops

from keras_glow.checks import check_seed
from keras_glow.layers.bijection import Bijection, weights_generator


@keras.saving.register_keras_serializable(package="keras_glow")
class Shuffle(Bijection):
    """Permutes the channels in a random order that never changes.

    - Forward: `z[..., c] = x[..., permutation[c]]`
    - Log-determinant: 0

    The order is a weight, so files carry it: a model reloaded anywhere permutes
    as it was trained to.

    Args:
        seed: int 0..2**32 - 1, or None for a different order each time, see
            `keras.utils.set_random_seed`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`.

    Reference:
        The fixed shuffle of the ablation in Kingma & Dhariwal, 2018,
        https://arxiv.org/abs/1807.03039, section 5.1
    """

    def __init__(self, seed: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.seed = check_seed(seed)

    def build(self, input_shape):
        channels = self.built_channels = input_shape[-1]
        order = weights_generator(self.seed).permutation(channels)
        self.permutation = self.add_weight(
            (channels,),
            lambda shape, dtype: ops.convert_to_tensor(order, dtype),
            dtype="int32",
            trainable=False,
            name="permutation",
        )

    def _forward(self, x):
        return ops.take(x, self.permutation, axis=-1), self.zero_log_det(x)

    def _inverse(self, z):
        return ops.take(z, ops.argsort(self.permutation), axis=-1)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}

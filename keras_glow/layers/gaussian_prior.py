"""The learned prior of the last latents, as a bijection."""

import keras
from keras import ops

from keras_glow.checks import check_integer
from keras_glow.layers.bijection import IMAGE, LABELS, Bijection
from keras_glow.layers.split import MAX_LOG_SIGMA


@keras.saving.register_keras_serializable(package="keras_glow")
class GaussianPrior(Bijection):
    """Standardises the top latents by a learned mean and scale per dimension.

    - Forward: `z = (x - mu) / sigma`
    - Inverse: `x = mu + sigma * z`
    - Log-determinant: `-sum(log_sigma)`

    To map a latent that should be N(mu, sigma) to one that should be N(0, 1)
    is to learn the prior: the log-determinant holds the difference.

    Args:
        num_classes: int, or None. With it, mu and log_sigma are learned for
            each class, and the inputs are `[x, labels]`.
        **kwargs: base layer keyword arguments (`name`, `dtype`, ...).

    Call arguments:
        inputs: float tensor `(batch, height, width, channels)`, or the list
            of it and an integer tensor `(batch,)` of labels.

    Returns:
        Tensor `(batch, height, width, channels)`.

    Reference:
        The learned top prior of https://github.com/openai/glow, there a
        convolution of a constant
    """

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if num_classes is not None:
            num_classes = check_integer("num_classes", num_classes, 1)
        self.num_classes = num_classes
        self.input_ranks = (IMAGE, LABELS) if num_classes else (IMAGE,)

    def _check_shapes(self, shapes, inverse):
        super()._check_shapes(shapes, inverse)
        shape = shapes[0][1:]
        if None in shape:
            if not self.built:
                self._refuse("height and width to be known", *shapes)
        elif self.built and shape != self.mu.shape[1:]:
            self._refuse(f"{self.mu.shape[1:]} for each example", *shapes)

    def build(self, input_shape):
        if self.num_classes:
            input_shape = (self.num_classes, *input_shape[0][1:])
        else:
            input_shape = (1, *input_shape[1:])
        self.mu = self.add_weight(input_shape, "zeros", name="mu")
        self.log_sigma = self.add_weight(input_shape, "zeros", name="log_sigma")

    def _gaussian(self, inputs):
        log_sigma = ops.clip(self.log_sigma, -MAX_LOG_SIGMA, MAX_LOG_SIGMA)
        if not self.num_classes:
            return inputs, ops.convert_to_tensor(self.mu), log_sigma
        x, labels = inputs
        labels = ops.cast(labels, "int32")
        mu, log_sigma = (
            ops.take(w, labels, axis=0) for w in (self.mu, log_sigma)
        )
        return x, mu, log_sigma

    def _forward(self, x):
        x, mu, log_sigma = self._gaussian(x)
        log_det = -ops.sum(log_sigma, axis=(1, 2, 3))
        z = (x - mu) * ops.exp(-log_sigma)
        return z, self.zero_log_det(x) + log_det

    def _inverse(self, z):
        z, mu, log_sigma = self._gaussian(z)
        return mu + ops.exp(log_sigma) * z

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}

"""What a flow minimises, and what Keras runs on one batch."""

import contextlib
import math

import keras
from keras import ops

from keras_glow.backend import keras_internals
from keras_glow.backend.devices import (
    replica_of_strategy,
    shift_noise_by_replica,
)
from keras_glow.checks import check_batch, plain_arrays, refuse
from keras_glow.flow.image_flow import ImageFlow
from keras_glow.flow.noise import IndexedNoise
from keras_glow.flow.pixels import dequantize, nan_where_outside
from keras_glow.flow.prediction import with_conditions
from keras_glow.layers.sequence import inputs_of
from keras_glow.losses import (
    batch_mean,
    count_of,
    negative_mean,
    settled_policy,
    standard_normal_log_prob,
)
from keras_glow.training.arguments import refuse_arguments
from keras_glow.training.divergence import NanIfEmptyMean, add_skipped_to_logs

ANY_NUMBER = 2**31 - 1  # of images, where none is there to fill a batch up


class FlowLoss(ImageFlow):
    """Computes the negative log-likelihood of batches of images.

    A subclass sets `bijections`, the layers in the order of encoding, and
    `seed`, `network_dtype`, `memory` and `classifier_weight`, see
    `keras_glow.Glow`; then it calls `_build_state`.
    """

    dtype_policy = settled_policy
    _step = None  # "train" or "test" within one of Keras' steps

    def _build_state(self):
        # It draws dequantisation noise. Its state is a counter that files hold.
        self.train_noise = keras.random.SeedGenerator(
            self.seed, name="train_noise"
        )
        # In evaluation: how many images count, and the number of the next.
        self.test_count = keras.random.SeedGenerator(0, name="test_count")
        # How many images count in the evaluation that begins, None for all: the
        # others fill up the last batch. And which of the batch in `call`.
        self._count = self._counted = None
        self.test_noise = IndexedNoise(self.image_shape, self.seed)
        # Images are integers, and have bits; or they have a density in nats.
        self.per_dim, nats = "bits_per_dim", math.log(2)
        if self.bits is None:
            self.per_dim, nats = "nats_per_dim", 1.0
        self.nats_of_one = nats * self.dimensions
        self.per_dim_tracker = NanIfEmptyMean(name=self.per_dim)
        self.classifier = None
        if self.classifier_weight:
            self.classifier = keras.layers.Dense(
                self.num_classes,
                kernel_initializer="zeros",
                dtype=self.dtype,
                name="classifier",
            )
            self.classifier.build((None, self.latent_shapes[-1][-1]))
            self.classifier_loss_tracker = NanIfEmptyMean(
                name="classifier_loss"
            )
            self.classifier_accuracy_tracker = NanIfEmptyMean(
                name="classifier_accuracy"
            )

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(
            plain_arrays(inputs, tensors=True), *args, **kwargs
        )

    def call(self, inputs, training=None):
        """Dequantises images at random and encodes them: `(batch, D)`.

        Adds the loss `-mean(log_det)`. With `num_classes` and `context_shape`
        the inputs are `(images, labels, context)`, or without the one that is
        None.
        """
        images, given = inputs, ()
        if any(self.conditions):
            names = ["images", *self.conditions.names()]
            if not isinstance(inputs, (list, tuple)) or (
                len(inputs) != len(names)
            ):
                refuse("inputs", f"({', '.join(names)})", inputs)
            images, *given = inputs
        targets = self.conditions.to_targets(given)
        check_batch(images, targets, self.image_format, self.conditions)
        counted = None
        if training:
            noise = keras.random.uniform(
                ops.shape(images), dtype=self.dtype, seed=self.train_noise
            )
            noise = shift_noise_by_replica(noise)
        else:
            numbers, counted = self._image_numbers(images)
            noise = self.test_noise(numbers, self.dtype)
        x = dequantize(images, noise, self.bits)
        x = nan_where_outside(x, images, *self.image_format.limits)
        if self.num_classes is not None:
            labels, *context = given
            x = nan_where_outside(x, labels, 0, self.num_classes - 1)
            # Backends differ in what a class that there is not would do.
            labels = ops.clip(labels, 0, self.num_classes - 1)
            given = labels, *context
        self._counted = counted
        return self.encoder(
            with_conditions(x, given), training=training, counted=counted
        )

    def _image_numbers(self, images):
        """Returns numbers of images since evaluation began, and which count.

        Outside of Keras' steps nothing begins: a batch is numbered by itself.
        """
        count = ops.shape(images)[0]
        if self._step is None:
            return ops.arange(count, dtype="int32"), None
        state = self.test_count.state
        total, first = ops.unstack(ops.convert_to_tensor(state), 2)
        one = ops.convert_to_tensor([0, 1], state.dtype)
        replica, replicas = replica_of_strategy()  # each has its own part
        first = ops.cast(first, "int32") + replica * count
        numbers = first + ops.arange(count, dtype="int32")
        counted = numbers < ops.cast(total, "int32")
        # The state is assigned last: on Torch, a tensor that was read from it
        # changes with it.
        state.assign(state + one * ops.cast(count * replicas, state.dtype))
        return numbers, counted

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        # There is nothing to predict but the latents themselves, so y is not
        # used. Keras' own sum cannot add float64 to its losses in float32.
        counted, self._counted = self._counted, None
        log_prob = standard_normal_log_prob(y_pred)
        losses = negative_mean(log_prob, counted), *self.losses
        nll = sum(ops.sum(ops.cast(loss, self.dtype)) for loss in losses)
        # The density in a bin times its volume is the probability of a pixel.
        nll = nll + self.bin_nats
        loss = nll
        means = {self.per_dim_tracker: nll / self.nats_of_one}
        if self.classifier is not None:
            cross_entropy, accuracy = self._classify(y_pred, x[1:], counted)
            loss += self.classifier_weight * self.dimensions * cross_entropy
            means[self.classifier_loss_tracker] = cross_entropy
            means[self.classifier_accuracy_tracker] = accuracy
        count = count_of(log_prob, counted)
        taken = True
        if training:
            taken = ops.isfinite(loss)  # the optimiser leaves out the others
            count = ops.where(taken, count, 0.0)
        for tracker, value in means.items():
            tracker.update_state(ops.where(taken, value, 0.0), count)
        # Each of n replicas of `tf.distribute` adds its part.
        return loss / replica_of_strategy()[1]

    def _classify(self, z, conditions, counted):
        """Returns the mean cross entropy in nats, and the accuracy."""
        prior, labels = self.bijections[-1], conditions[0]
        top = self.latent_shapes[-1]
        z = ops.reshape(z[:, -math.prod(top) :], (-1, *top))
        # h is the latent before the prior of its class standardised it: a guess
        # must not know the class already.
        h = prior.inverse(inputs_of(prior, z, self.given(conditions)))
        logits = self.classifier(ops.mean(h, axis=(1, 2)))
        cross_entropy = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        right = ops.equal(
            ops.cast(ops.argmax(logits, axis=-1), "int32"),
            ops.cast(labels, "int32"),
        )
        return [
            batch_mean(ops.cast(values, self.dtype), counted)
            for values in (cross_entropy, right)
        ]

    def get_metrics_result(self):
        # Keras' own mean of the loss includes steps that were left out, and
        # images that fill up a batch.
        logs = super().get_metrics_result()
        loss = logs[self.per_dim] * self.nats_of_one
        if self.classifier is not None:
            weight = self.classifier_weight * self.dimensions
            loss = loss + weight * logs["classifier_loss"]
        return {**logs, "loss": loss}

    def train_step(self, *args):
        batch = self._conditions_to_inputs(args[-1])
        with self._within("train"):
            logs = super().train_step(*args[:-1], batch)
        return add_skipped_to_logs(self, logs)

    @contextlib.contextmanager
    def _within(self, step):
        self._step = step
        try:
            yield
        finally:
            self._step = None

    @property
    def trainable_weights(self):
        # On Torch a step asks for them three times. To look for them in all
        # layers would take longer than the optimiser does.
        known = None
        if self._step == "train":
            known = keras_internals.optimized(self.optimizer)
        if known is None:
            return super().trainable_weights
        return [variable for variable in known if variable.trainable]

    def test_step(self, *args):
        batch = self._conditions_to_inputs(args[-1])
        with self._within("test"):
            return super().test_step(*args[:-1], batch)

    def predict_step(self, *args):
        with self._within("test"):
            return super().predict_step(*args)

    def _conditions_to_inputs(self, batch):
        # A conditional model takes them as inputs, an unconditional one none.
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        refuse_arguments(sample_weight=sample_weight)
        given = keras.tree.flatten(y) if any(self.conditions) else ()
        return with_conditions(x, given), None, None

    # Keras begins with one of these in all of its methods that run a model
    # without training it. The noise of image i then is the same each time.

    def make_test_function(self, force=False):
        self._restart_test_noise(self._count)
        return super().make_test_function(force)

    def make_predict_function(self, force=False):
        self._restart_test_noise()
        return super().make_predict_function(force)

    def _restart_test_noise(self, count=None):
        state = self.test_count.state
        start = [ANY_NUMBER if count is None else count, 0]
        state.assign(ops.convert_to_tensor(start, state.dtype))

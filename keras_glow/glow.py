"""The Glow model: trains on images, scores, encodes, decodes and draws them."""

import math

import keras
import numpy as np
from keras import ops

from keras_glow.analysis import diagnosis
from keras_glow.backend.devices import (
    count_devices,
    count_replicas,
    differ_by_replica,
    of_all_processes,
    replica_of_strategy,
)
from keras_glow.backend.keras_internals import weights_kept
from keras_glow.backend.memory import keep_freed_memory, return_freed_memory
from keras_glow.checks import (
    NETWORK_DTYPES,
    allocate_images,
    check_arguments,
    check_batch,
    check_boolean,
    check_choice,
    check_classifier_weight,
    check_data,
    check_fraction,
    check_images,
    check_integer,
    check_labels,
    check_latents,
    check_loss,
    check_seed,
    check_validation_data,
    is_dataset,
    nan_outside,
)
from keras_glow.data import (
    ImageSequence,
    first_images,
    in_order,
    pipeline,
    split,
)
from keras_glow.files.atomic import atomic_file
from keras_glow.files.export import export
from keras_glow.flow.architecture import assemble, build_flow, latent_shapes
from keras_glow.flow.initialization import (
    INITIALIZATION_IMAGES,
    check_inverses,
    initialize,
    is_initialized,
)
from keras_glow.flow.noise import (
    IndexedNoise,
    keyed_generators,
    new_seed,
    standard_deviations,
    standard_normal,
    uniform,
)
from keras_glow.flow.pixels import dequantize, quantize
from keras_glow.flow.prediction import (
    predict_batches,
    prepare_chains,
    resolve_jit_compile,
)
from keras_glow.layers.bijection import flow_dtype
from keras_glow.losses import StandardNormalNLL, batch_mean
from keras_glow.training.divergence import (
    StopIfDiverged,
    TakenMean,
    log_skipped,
)
from keras_glow.training.ema import averaged_weights
from keras_glow.training.optimizer import batches_seen, guarded

MEMORY = ("store", "remat", "reversible")
CLASS_PRIORS = ("all", "top")
# What files from before an argument was there mean by leaving it out.
LATER = {"border": False, "class_priors": "top", "classifier_weight": 0.0}
SAMPLES_AT_ONCE = 1024  # that `sample` holds latents of


@keras.saving.register_keras_serializable(package="keras_glow")
class Glow(keras.Model):
    """A multi-scale normalizing flow over images, with an exact likelihood.

    An image goes through `levels` levels, each of them a squeeze, `depth` steps
    of flow and a split that lets half of the channels out. All latents leave
    standardised: an image is D numbers that are standard normal if the model
    fits, and any D standard normal numbers are an image.

    ```python
    model = keras_glow.Glow((32, 32, 3), levels=3, depth=4, width=128)
    model.compile(optimizer=keras.optimizers.Adam(1e-3))
    model.fit(images, validation_data=(test_images, None), epochs=20)
    model.save("faces.keras")
    faces = model.sample(16, temperature=0.7, seed=0)
    ```

    Everywhere, `images` are integers 0..255, `(batch, height, width,
    channels)`; labels are integers `(batch,)`, needed if and only if
    `num_classes` is set; D is height x width x channels.

    `fit` and `evaluate` take arrays, a `tf.data.Dataset`, a
    `keras.utils.PyDataset` or a generator, with or without labels, and no other
    targets. The loss is the mean negative log-likelihood of an image in nats,
    under uniform dequantisation; `bits_per_dim` stands beside it.

    Args:
        image_shape: (height, width, channels); height and width multiples of
            `2**levels`, channels 1 or more.
        levels: int 1..30, L in the paper.
        depth: int 1..1024, steps of flow in each level, K in the paper.
        width: int >= 1, hidden channels of a coupling network.
        permutation: `"invertible_conv"`, `"shuffle"` or `"reverse"`.
        coupling: `"affine"` or `"additive"`.
        bits: int 1..8, bits per subpixel; with fewer than 8 the images are
            quantised to `2**bits` grey levels.
        num_classes: int, or None. With it the priors are learned for each
            class.
        seed: int 0..2**31 - 1, of the initial weights, of the order of the
            images and of the noise in training.
        network_dtype: `"bfloat16"` or `"float16"` to compute the coupling
            networks in while training; None follows the dtype policy. The rest
            of the flow, and everything outside training, is float32.
        memory: what the backward pass of training has the activations from:
            `"store"` keeps them all; `"remat"` keeps the input of each step of
            flow and computes the rest once more; `"reversible"` keeps nothing
            of the steps and goes back through their inverses. What a step
            more costs is then its weights, the optimiser's moments and its
            part of the program. Both take longer: 1.2 and 1.4 times at depth
            64. Files do not depend on it.
        scale: scale function of affine coupling, see
            `keras_glow.layers.AffineCoupling`.
        border: bool, whether the 3x3 convolutions see where the image ends, by
            a channel more that is 1 outside of it, as in openai/glow; see
            `keras_glow.layers.convolution.convolve`.
        class_priors: `"all"` for those of all levels, `"top"` for that of the
            coarsest alone, as in openai/glow.
        classifier_weight: float >= 0. Over 0, a linear layer guesses the class
            from the mean of the top latents over the image, and its cross
            entropy in nats, times `classifier_weight * D`, is added to the
            loss: `weight_y` of openai/glow, 0.01 there. `classifier_loss` and
            `classifier_accuracy` stand beside it.
        **kwargs: `name` and `dtype` of a keras.Model.

    Attributes:
        encoder: functional keras.Model, continuous image in [-0.5, 0.5),
            `(batch, height, width, channels)`, to z, `(batch, D)`: the latents
            of all levels, standardised, finest level first. It adds the loss
            `-mean(log_det)`. With `num_classes` its inputs are
            `[image, labels]`.
        decoder: functional keras.Model, z to continuous image, through the
            same layers. With `num_classes` its inputs are `[z, labels]`.
        bijections: the layers in the order of encoding.
        latent_shapes: shape of each level's latent, in the order of z.

    Raises:
        ValueError: naming the argument that is not as described, or those that
            ask for more than 2**31 parameters.

    Reference:
        Kingma & Dhariwal, 2018, Glow: Generative Flow with Invertible 1x1
        Convolutions, https://arxiv.org/abs/1807.03039
    """

    def __init__(
        self,
        image_shape,
        levels=3,
        depth=10,
        width=512,
        permutation="invertible_conv",
        coupling="affine",
        bits=8,
        num_classes=None,
        seed=0,
        network_dtype=None,
        memory="store",
        scale="bounded",
        border=False,
        class_priors="all",
        classifier_weight=0.0,
        **kwargs,
    ):
        image_shape, levels, depth, width, bits, num_classes, seed = (
            check_arguments(
                image_shape, levels, depth, width, bits, num_classes, seed
            )
        )
        check_choice("memory", memory, MEMORY)
        check_choice("network_dtype", network_dtype, NETWORK_DTYPES)
        policy = keras.dtype_policies.get(kwargs.pop("dtype", None))
        super().__init__(dtype=flow_dtype(policy), **kwargs)
        # Keras puts a wrapper of its int8 quantisation over each layer's
        # `quantize`; ours has another meaning, and wants the method itself.
        del self.quantize
        self.image_shape = image_shape
        self.levels = levels
        self.depth = depth
        self.width = width
        self.permutation = permutation
        self.coupling = coupling
        self.bits = bits
        self.num_classes = num_classes
        self.seed = seed
        policy = keras.dtype_policies.get(network_dtype or policy)
        self.network_dtype = policy.compute_dtype
        self.memory = memory
        # Who asks for less memory gets what is least.
        self.keeps_freed_memory = memory == "store" and keep_freed_memory()
        self.scale = scale
        self.border = check_boolean("border", border)
        check_choice("class_priors", class_priors, CLASS_PRIORS)
        self.class_priors = class_priors
        self.classifier_weight = check_classifier_weight(
            classifier_weight, num_classes
        )

        self.dimensions = math.prod(self.image_shape)
        self.latent_shapes = latent_shapes(self.image_shape, levels)
        flow = build_flow(
            self.image_shape,
            levels,
            depth,
            num_classes,
            class_priors,
            seed,
            self.dtype,
            memory,
            border,
            permutation=permutation,
            coupling=coupling,
            width=width,
            scale=scale,
            network_dtype=self.network_dtype,
        )
        # First by name among the attributes, so files name the weights by it.
        self.bijections = [
            layer
            for level in flow
            for layer in (level.squeeze, *level.steps.bijections, level.prior)
        ]
        self.encoder, self.scorer, self.decoder = assemble(
            flow, self.image_shape, num_classes, self.dtype
        )
        for model in (self.encoder, self.scorer, self.decoder):
            model.jit_compile = resolve_jit_compile("auto", model)
        prepare_chains(self.encoder, self.encoder.jit_compile)
        # Dequantisation noise: its state is a counter that the file carries.
        self.train_noise = keras.random.SeedGenerator(seed, name="train_noise")
        # In tests the counter is the number of the image.
        self.test_count = keras.random.SeedGenerator(seed, name="test_count")
        self.test_noise = IndexedNoise(self.image_shape, seed)
        self.bits_per_dim_tracker = TakenMean(name="bits_per_dim")
        self.classifier = None
        if self.classifier_weight:
            self.classifier = keras.layers.Dense(
                num_classes, kernel_initializer="zeros", dtype=self.dtype
            )
            self.classifier.build((None, self.latent_shapes[-1][-1]))
            self.classifier_loss_tracker = TakenMean(name="classifier_loss")
            self.classifier_accuracy_tracker = TakenMean(
                name="classifier_accuracy"
            )
        self.built = True

    # Training

    def compile(
        self, optimizer="adam", loss=None, jit_compile="auto", **kwargs
    ):
        """Configures training, as `keras.Model.compile` does.

        Args:
            optimizer: a Keras optimiser or its name. With networks in float16
                it gets a `keras.optimizers.LossScaleOptimizer` around it.
            loss: None, for `keras_glow.losses.StandardNormalNLL()`. One of
                Keras's own would compare latents with themselves.
            jit_compile: bool, or `"auto"`, which leaves XLA out where
                TensorFlow runs on a CPU: its convolutions are slower there.
            **kwargs: other arguments of `keras.Model.compile`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        check_loss(loss)
        check_choice("jit_compile", jit_compile, (True, False, "auto"))
        jit_compile = resolve_jit_compile(jit_compile, self)
        prepare_chains(self.encoder, jit_compile)
        super().compile(
            optimizer=guarded(optimizer, self.network_dtype),
            loss=StandardNormalNLL() if loss is None else loss,
            jit_compile=jit_compile,
            **kwargs,
        )
        # Keras would run the model once more to learn the shape of its output,
        # and would leave the labels out.
        z = keras.KerasTensor((None, self.dimensions), self.dtype)
        self._compile_loss.build(z, z)

    def compile_from_config(self, config):
        # The file may come from another backend: XLA is decided here anew.
        config = {k: v for k, v in config.items() if k != "jit_compile"}
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def call(self, inputs, training=None):
        """Dequantises images at random and encodes them: `(batch, D)`.

        Adds the loss `-mean(log_det)`. With `num_classes` the inputs are
        `(images, labels)`.
        """
        images, labels = (inputs, None) if self.num_classes is None else inputs
        check_batch(images, labels, self.image_shape, self.num_classes)
        if training:
            noise = keras.random.uniform(
                ops.shape(images), dtype=self.dtype, seed=self.train_noise
            )
            noise = differ_by_replica(noise)
        else:
            noise = self.test_noise(self._count(images), self.dtype)
        x = dequantize(images, noise, self.bits)
        x = nan_outside(x, images, 0, 255)
        if labels is not None:
            x = nan_outside(x, labels, 0, self.num_classes - 1)
        return self.encoder(_join(x, labels), training=training)

    def _count(self, images):
        """The numbers of the images of a test, since it began."""
        state = self.test_count.state
        count = ops.shape(images)[0]
        first = ops.convert_to_tensor(state)[1]
        one = ops.convert_to_tensor([0, 1], state.dtype)
        replica, replicas = replica_of_strategy()  # each with its part
        first = ops.cast(first, "int32") + replica * count
        numbers = first + ops.arange(count, dtype="int32")
        # Only now: on Torch, what was read of the state changes with it.
        state.assign(state + one * ops.cast(count * replicas, state.dtype))
        return numbers

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        # Nothing to predict but the latents themselves: y is not looked at.
        # Keras' own sum takes no float64 beside the float32 of its losses.
        # On each of n replicas of `tf.distribute` Keras takes an n-th of it.
        replicas = count_replicas()
        losses = replicas * self._compile_loss(y_pred, y_pred), *self.losses
        nll = sum(ops.sum(ops.cast(loss, self.dtype)) for loss in losses)
        # The density of a bin times its volume is the probability of a pixel.
        nll = nll + self.dimensions * self.bits * math.log(2)
        loss = nll
        means = {
            self.bits_per_dim_tracker: nll / (self.dimensions * math.log(2))
        }
        if self.classifier is not None:
            cross_entropy, accuracy = self._classify(y_pred, x[1])
            loss += self.classifier_weight * self.dimensions * cross_entropy
            means[self.classifier_loss_tracker] = cross_entropy
            means[self.classifier_accuracy_tracker] = accuracy
        count = ops.cast(ops.shape(y_pred)[0], self.dtype)
        taken = True
        if training:
            taken = ops.isfinite(loss)  # or else the optimiser leaves it out
            count = ops.where(taken, count, 0.0)
        for tracker, value in means.items():
            value = ops.where(taken, value, 0.0)
            tracker.update_state(value, sample_weight=count)
        return loss / replicas

    def _classify(self, z, labels):
        """Mean cross entropy in nats, and the share of right guesses."""
        top = self.latent_shapes[-1]
        z = ops.reshape(z[:, -math.prod(top) :], (-1, *top))
        # Before its class standardised it: no guess may know that already.
        h = self.bijections[-1].inverse([z, labels])
        logits = self.classifier(ops.mean(h, axis=(1, 2)))
        cross_entropy = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        right = ops.equal(
            ops.cast(ops.argmax(logits, axis=-1), "int32"),
            ops.cast(labels, "int32"),
        )
        return [
            batch_mean(ops.cast(values, self.dtype))
            for values in (cross_entropy, right)
        ]

    def loss_of(self, logs):
        """The loss in nats per image, of the metrics it is the sum of."""
        loss = logs["bits_per_dim"] * (self.dimensions * math.log(2))
        if self.classifier is not None:
            weight = self.classifier_weight * self.dimensions
            loss = loss + weight * logs["classifier_loss"]
        return loss

    def train_step(self, *args):
        batch = self._labels_to_inputs(args[-1])
        return log_skipped(self, super().train_step(*args[:-1], batch))

    def test_step(self, *args):
        return super().test_step(*args[:-1], self._labels_to_inputs(args[-1]))

    def _labels_to_inputs(self, batch):
        # A conditional model takes the labels in, an unconditional one none.
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if sample_weight is not None:
            raise ValueError("Sample weights are expected to be None.")
        check_batch(x, y, self.image_shape, self.num_classes)
        return (x if self.num_classes is None else (x, y)), None, None

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        **kwargs,
    ):
        """Trains the model, as `keras.Model.fit` does.

        The order of an array's images is a function of the model's seed and of
        the epoch; no global random state is touched. A dataset has its own.

        Before the first step of its life ActNorm is set from 256 dequantised
        images. With `memory="reversible"` every `fit` begins with a check of
        the inverses on a few of them.

        A step whose loss or gradient is not finite is left out, and counted in
        `skipped_steps` of the logs. Ten of them in a row end the training. In
        float16 the LossScaleOptimizer leaves steps out, and counts none.

        Args:
            x: images, or a dataset of images or of (images, labels).
            y: labels, beside an array of images.
            batch_size: int >= 1, or None for 32; a dataset has its own.
            epochs: int >= 1, the number of the last epoch.
            verbose: as in `keras.Model.fit`.
            callbacks: list of keras.callbacks.Callback.
            validation_split: float in [0, 1), part of an array, taken from its
                end, to validate on if there is no `validation_data`.
            validation_data: images, `(images, labels)`, `(images, None)` or a
                dataset.
            shuffle: bool, whether an array is shuffled anew each epoch.
            **kwargs: other arguments of `keras.Model.fit`.

        Returns:
            A `keras.callbacks.History` of `loss` in nats per image and
            `bits_per_dim`, and of both with `val_` for validation data, and of
            `skipped_steps`, the count since the model was compiled.

        Raises:
            ValueError: if the images are not integers 0..255 of the model's
                shape, or another argument is not as described, naming it; with
                `memory="reversible"`, if the inverse of a step is not accurate
                enough, naming it. Later batches of a dataset, whose values no
                compiled program can refuse, make the loss nan instead.
            TrainingDiverged: after ten steps left out in a row.
        """
        if getattr(self, "optimizer", None) is None:
            raise ValueError("`compile()` is expected to be called before.")
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        epochs = check_integer("epochs", epochs, 1)
        shuffle = check_boolean("shuffle", shuffle)
        x, y = check_data(x, y, self.image_shape, self.num_classes)
        # Before the first epoch, not after it.
        if validation_data is not None:
            test_x, test_y = check_validation_data(
                validation_data, self.image_shape, self.num_classes
            )
            validation_data = self._check_dataset(test_x), test_y
        elif check_fraction("validation_split", validation_split):
            x, y, validation_data = split(x, y, validation_split)
        if validation_data is not None:
            validation_data = in_order(
                *validation_data,
                kwargs.get("validation_batch_size") or batch_size,
            )
        if self.memory == "reversible" or not is_initialized(self.encoder):
            x = self._prepare(x)
        else:
            x = self._check_dataset(x)
        if not is_dataset(x):
            x, y = self._sequence(x, y, batch_size or 32, shuffle), None
        batches, next_epoch = x, []
        if isinstance(x, ImageSequence):
            batches, next_epoch = pipeline(x)
            shuffle = False  # done
        elif not isinstance(x, keras.utils.PyDataset):
            shuffle = False  # not for Keras to do
        # Built outside the traced step, the slots cost a third of its time.
        self.optimizer.build(self.trainable_variables)
        try:
            with weights_kept(self):
                return super().fit(
                    batches,
                    y,
                    batch_size,
                    epochs,
                    verbose,
                    [
                        StopIfDiverged(x),
                        *next_epoch,
                        *keras.tree.flatten(callbacks or []),
                    ],
                    validation_data=validation_data,
                    shuffle=shuffle,
                    **kwargs,
                )
        finally:
            if self.keeps_freed_memory:
                return_freed_memory()

    def _check_batch(self, images, labels):
        images = check_images(images, self.image_shape, "x")
        if self.num_classes is not None:
            check_labels(labels, len(images), self.num_classes, "y")
        return images

    def _check_dataset(self, x):
        """Looks at what comes first out of a dataset, and gives it back."""
        if not is_dataset(x):
            return x
        if not hasattr(x, "element_spec"):
            return first_images(x, 1, self.seed, self._check_batch)[1]
        # Of tf.data types and shapes are known, and a batch may cost much.
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(x.element_spec)
        check_batch(images, labels, self.image_shape, self.num_classes)
        return x

    def _sequence(self, images, labels, batch_size, shuffle):
        # It goes on where the optimiser stands: two fits of one epoch see what
        # one of two epochs sees.
        steps = -(-len(images) // batch_size)
        # Rounded: steps that a loss scale left out are counted nowhere.
        epoch = round(batches_seen(self.optimizer) / steps)
        return ImageSequence(
            images,
            labels,
            batch_size,
            seed=self.seed,
            epoch=epoch,
            shuffle=shuffle,
        )

    def _prepare(self, x):
        images, x = first_images(
            x, INITIALIZATION_IMAGES, self.seed, self._check_batch
        )
        images = of_all_processes(images)
        inputs = self.dequantize(images, seed=self.seed)
        # The priors, which alone see labels, let nothing of them on to ActNorm.
        labels = np.zeros(len(images), "int32") if self.num_classes else None
        inputs = _join(inputs, labels)
        initialize(self.encoder, inputs)
        check_inverses(self.encoder, inputs)
        return x

    def evaluate(self, x=None, y=None, batch_size=None, *args, **kwargs):
        """The loss and bits/dim on data, as `keras.Model.evaluate` does.

        The noise of image i is the same at every call and for every batch size.
        While `fit` runs with `use_ema=True`, it is the averaged weights that
        are evaluated.

        Args:
            x: images, or a dataset of images or of (images, labels).
            y: labels, beside an array of images.
            batch_size: int >= 1, or None for 32; a dataset has its own.
            *args: other arguments of `keras.Model.evaluate`.
            **kwargs: likewise.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        if batch_size is not None:
            batch_size = check_integer("batch_size", batch_size, 1)
        if not kwargs.get("_use_cached_eval_dataset"):  # by fit, which looked
            x, y = check_data(x, y, self.image_shape, self.num_classes)
            x, y = in_order(self._check_dataset(x), y, batch_size)
        state = self.test_count.state
        state.assign(ops.convert_to_tensor([self.seed, 0], state.dtype))
        if kwargs.get("_use_cached_eval_dataset"):  # called by fit
            with averaged_weights(self):
                return super().evaluate(x, y, batch_size, *args, **kwargs)
        with weights_kept(self):
            return super().evaluate(x, y, batch_size, *args, **kwargs)

    # Images to latents and back

    def dequantize(self, images, seed=None):
        """Adds noise inside the bin: continuous images in [-0.5, 0.5).

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            seed: int 0..2**32 - 1 for noise that it fixes, None for other noise
                each time, `"center"` for the centre of the bin.

        Returns:
            Float array of the same shape.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        seed = check_seed(seed, or_center=True)
        return self._dequantize(check_images(images, self.image_shape), seed)

    def _dequantize(self, images, seed, draw=0):
        if seed == "center":
            noise = np.full((1, 1, 1, 1), 0.5, self.dtype)
        else:
            # Streams 0 and 1 of a seed draw latents and labels.
            noise = uniform(images.shape, seed, stream=2 + draw)
        noise = ops.cast(noise, self.dtype)
        return ops.convert_to_numpy(dequantize(images, noise, self.bits))

    def quantize(self, x):
        """Continuous images to uint8, each value to the bin that holds it.

        Raises:
            ValueError: if a value is no number, or not finite.
        """
        return quantize(x, self.bits)

    def encode(self, images, labels=None, batch_size=32):
        """Latents of images, taken at the centre of their bins.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            labels: int array `(batch,)`.
            batch_size: int, images that are encoded at once.

        Returns:
            Float array `(batch, D)`, all levels, standardised; of no images,
            `(0, D)`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        x = self.dequantize(images, seed="center")
        labels = check_labels(labels, len(x), self.num_classes)
        return self._predict(self.encoder, x, labels, batch_size)

    def decode(self, z, labels=None, batch_size=32):
        """Images of latents: the inverse of `encode`, pixel by pixel.

        Args:
            z: finite float array `(batch, D)`.
            labels: int array `(batch,)`.
            batch_size: int, images that are decoded at once.

        Returns:
            uint8 array `(batch, height, width, channels)`.

        Raises:
            ValueError: naming the argument that is not as described; if an
                image is not finite.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        z = check_latents(z, self.dimensions, self.dtype)
        labels = check_labels(labels, len(z), self.num_classes)
        return self.quantize(self._predict(self.decoder, z, labels, batch_size))

    def sample(
        self, count, temperature=0.7, seed=None, labels=None, batch_size=32
    ):
        """Draws images.

        Image i of a seed is always the same, however many are drawn. Memory is
        needed for the images and for the latents of about 1,024 of them.

        Args:
            count: int >= 0; at most as many as take 16 GiB.
            temperature: float >= 0 that scales the standard deviation of the
                latents of every level, or a sequence of them, one per level,
                finest first. 0 gives the mode, 1 the model's distribution.
            seed: int 0..2**32 - 1, or None for other images each time.
            labels: int array `(count,)`, or one int for all; None draws
                them uniformly (only with `num_classes`).
            batch_size: int, images that are decoded at once.

        Returns:
            uint8 array `(count, height, width, channels)`.

        Raises:
            ValueError: if an argument is not as described.
        """
        batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed)
        deviations = standard_deviations(temperature, self.latent_shapes)
        images = allocate_images(count, self.image_shape)
        count = len(images)
        if labels is not None:
            if np.ndim(labels) == 0:
                labels = np.full(count, labels)
            labels = check_labels(labels, count, self.num_classes)
        if seed is None:
            seed = new_seed()
        # Whole batches, so that where a chunk ends makes no difference.
        chunk = -(-SAMPLES_AT_ONCE // batch_size) * batch_size
        for start in range(0, count, chunk):
            stop = min(start + chunk, count)
            images[start:stop] = self._draw(
                start, stop, deviations, seed, labels, batch_size
            )
        return images

    def _draw(self, start, stop, deviations, seed, labels, batch_size):
        count = stop - start
        if labels is not None:
            labels = labels[start:stop]
        elif self.num_classes is not None:
            generators = keyed_generators(seed, count, 1, start)
            labels = [rng.integers(self.num_classes) for rng in generators]
        z = standard_normal(count, self.dimensions, seed, start)
        return self.decode(z * deviations, labels, batch_size)

    # Likelihood

    def log_prob(self, images, draws=1, seed=None, labels=None, batch_size=32):
        """Log-likelihood of discrete images, a lower bound, in nats.

        It is `log mean exp` over draws of dequantisation noise of the density
        times the volume of a bin: more draws tighten the bound.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            draws: int >= 1.
            seed: int 0..2**32 - 1 for noise that it fixes, `"center"` for none,
                or None for other noise each time.
            labels: int array `(batch,)`.
            batch_size: int, images that are encoded at once.

        Returns:
            Float array `(batch,)`.

        Raises:
            ValueError: naming the argument that is not as described.
        """
        draws = check_integer("draws", draws, 1)
        batch_size = check_integer("batch_size", batch_size, 1)
        seed = check_seed(seed, or_center=True)
        images = check_images(images, self.image_shape)
        labels = check_labels(labels, len(images), self.num_classes)
        log_probs = [
            self._predict(
                self.scorer,
                self._dequantize(images, seed, draw),
                labels,
                batch_size,
            ).astype("float64")
            for draw in range(draws)
        ]
        bound = np.logaddexp.reduce(log_probs) - math.log(draws)
        volume = -self.dimensions * self.bits * math.log(2)
        return (bound + volume).astype(self.dtype)

    def bits_per_dim(self, images, **kwargs):
        """`-log_prob / (D log 2)`, float array `(batch,)`: lower is better.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`.
            **kwargs: arguments of `log_prob`.
        """
        log_prob = self.log_prob(images, **kwargs)
        return -log_prob / (self.dimensions * math.log(2))

    def diagnose(self, images, labels=None, batch_size=32):
        """Looks for what loses images, layer by layer: the flow's doctor.

        It changes nothing in the model, and no random state.

        Args:
            images: integers 0..255, `(batch, height, width, channels)`, such as
                validation images.
            labels: int array `(batch,)`.
            batch_size: int, images that go through at once.

        Returns:
            A `keras_glow.analysis.diagnosis.Diagnosis`; print it.
        """
        return diagnosis.diagnose(self, images, labels, batch_size)

    def _predict(self, model, inputs, labels, batch_size):
        """Runs a model in batches whose sizes are few: each is compiled once.

        The last batch is filled up to `batch_size`, a lone one to a power of 2;
        all of them to what divides among the devices.
        """
        count = len(inputs)
        if not count:
            return np.zeros((0, *model.output_shape[1:]), self.dtype)
        size = min(batch_size, 1 << (count - 1).bit_length())
        devices = count_devices(model)
        size += -size % devices
        filled = np.minimum(np.arange(-(-count // size) * size), count - 1)
        if devices > 1:
            x = _join(
                inputs[filled], None if labels is None else labels[filled]
            )
            with weights_kept(self):
                return model.predict(x, batch_size=size, verbose=0)[:count]
        batches = (
            _join(inputs[rows], None if labels is None else labels[rows])
            for rows in np.split(filled, len(filled) // size)
        )
        return np.concatenate(predict_batches(model, batches))[:count]

    # Saving

    def save(self, filepath, overwrite=True, **kwargs):
        """Saves a `.keras` file whole or not at all, as `keras.Model.save`.

        Keras writes in place: a full disk, or a kill meanwhile, takes the file
        before with it.

        Args:
            filepath: where to; missing folders are made. What Keras takes of
                addresses (`gs://...`) is written as Keras does.
            overwrite: bool, whether to replace a file without asking.
            **kwargs: other arguments of `keras.Model.save`.

        Raises:
            OSError: naming the file and the reason; the one before is left.
        """
        name = str(filepath)
        if not overwrite or not name.endswith(".keras") or "://" in name:
            # Keras asks, says what a file is to be called, or sends it away.
            super().save(filepath, overwrite, **kwargs)
            return
        with atomic_file(filepath) as partial:
            super().save(partial, **kwargs)

    def export(self, filepath, format="tf_saved_model"):
        """Writes encoder and decoder as files that run without this package.

        `signature.json` beside them says what goes in and what comes out, see
        `keras_glow.files.export.standalone`; `docs/export.md` how each is
        loaded. It needs the TensorFlow backend, and `"onnx"` the packages
        tf2onnx and onnx.

        Args:
            filepath: of the folder to make.
            format: `"tf_saved_model"`, `"litert"` or `"onnx"`.

        Raises:
            ValueError: naming the argument that is not as described.
            ImportError: naming the packages that are missing.
            OSError: naming the folder and the reason, such as that there is
                one already; nothing is written.
        """
        export(self, filepath, format)

    def get_config(self):
        return {
            "name": self.name,
            "dtype": self.dtype,
            "image_shape": list(self.image_shape),
            "levels": self.levels,
            "depth": self.depth,
            "width": self.width,
            "permutation": self.permutation,
            "coupling": self.coupling,
            "bits": self.bits,
            "num_classes": self.num_classes,
            "seed": self.seed,
            "network_dtype": self.network_dtype,
            "memory": self.memory,
            "scale": self.scale,
            "border": self.border,
            "class_priors": self.class_priors,
            "classifier_weight": self.classifier_weight,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**LATER, **config})

    @classmethod
    def from_preset(cls, name):
        """A trained model that comes with the package, not compiled.

        Args:
            name: one of `keras_glow.presets.PRESETS`.

        Raises:
            ValueError: if there is no such preset.
            ModelFileError: if its file is not the one that was shipped.
        """
        from keras_glow.files.presets import (
            load_preset,  # which needs this module
        )

        return load_preset(name)

    def load_weights(self, filepath, *, sha256=None):
        """Loads weights, all of them or none.

        The file is checked as by `keras_glow.load_model`. A compiled model
        takes the state of the optimiser too, if the file has one of the same
        kind. HDF5 has no checksums: that a `.weights.h5` file is as it was
        written, only `sha256` can tell.

        Args:
            filepath: a `.weights.h5` or `.keras` file of a model like this one.
            sha256: hexadecimal digest that the file must have, or None.

        Raises:
            ModelFileError: naming the file and what is wrong with it; the
                model is as it was.
            FileNotFoundError: if there is none.
        """
        from keras_glow.files.strict_reader import (
            load_weights,  # which needs this module
        )

        load_weights(self, filepath, sha256)

    def save_own_variables(self, store):
        # Keras leaves the state of seed generators out of its files. Without
        # it, training that goes on would see the same noise once more.
        store["train_noise"] = ops.convert_to_numpy(
            self.train_noise.state
        ).astype("int64")

    def load_own_variables(self, store):
        state = self.train_noise.state
        state.assign(
            ops.convert_to_tensor(store["train_noise"][:], state.dtype)
        )


def _join(x, labels):
    return x if labels is None else [x, labels]

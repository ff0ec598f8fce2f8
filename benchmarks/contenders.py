"""The Glows that `benchmarks/peers.py` compares, each behind three methods.

`train(images)`, `score(images)` and `sample(count)` work in batches and return
when the work is done. All train by Adam on the negative log-likelihood of
images with uniform noise; each is built as its own documentation does. All
have ActNorm, affine coupling by a network of a 3x3, a 1x1 and a 3x3
convolution, and a permutation that is learned, but for FrEIA's rotation.
"""

import math
import os

import numpy as np

SHAPE = (32, 32, 3)
LEVELS = 3
LEARNING_RATE = 1e-4


class KerasGlow:
    """This package."""

    modules = ("keras", "keras_glow")
    environment = {"TF_ENABLE_ONEDNN_OPTS": "1"}  # as the README advises

    def __init__(self, depth, width, batch_size, network_dtype=None):
        import keras

        import keras_glow

        self.batch_size = batch_size
        self.model = keras_glow.Glow(
            SHAPE, LEVELS, depth, width, network_dtype=network_dtype
        )
        self.model.compile(keras.optimizers.Adam(LEARNING_RATE))

    def parameters(self):
        return self.model.count_params()

    def train(self, images):
        self.model.fit(images, batch_size=self.batch_size, verbose=0)

    def score(self, images):
        self.model.log_prob(images, batch_size=self.batch_size)

    def sample(self, count):
        self.model.sample(count, batch_size=self.batch_size)


class KerasGlowBfloat16(KerasGlow):
    """This package, with the coupling networks in bfloat16 while it trains."""

    def __init__(self, *arguments):
        super().__init__(*arguments, network_dtype="bfloat16")


class _Torch:
    """What the ports on PyTorch have in common.

    A subclass sets `self.module`, and has `log_prob(x)` and `draw(count)`.
    """

    def __init__(self, depth, width, batch_size):
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.torch = torch
        self.batch_size = batch_size
        self.build(depth, width)
        self.module.to(self.device)
        self.optimizer = torch.optim.Adam(
            self.module.parameters(), LEARNING_RATE
        )

    def parameters(self):
        return sum(p.numel() for p in self.module.parameters())

    def _batches(self, images):
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            x = self.torch.from_numpy(batch).to(self.device)
            x = x.permute(0, 3, 1, 2).float()
            yield (x + self.torch.rand_like(x)) / 256 - 0.5

    def train(self, images):
        self.module.train()
        for x in self._batches(images):
            loss = -self.log_prob(x).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self._wait()

    def score(self, images):
        self.module.eval()
        with self.torch.no_grad():
            for x in self._batches(images):
                self.log_prob(x)
        self._wait()

    def sample(self, count):
        self.module.eval()
        with self.torch.no_grad():
            for _ in range(0, count, self.batch_size):
                self.draw(self.batch_size)
        self._wait()

    def _wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def _network(self, channels_in, width, channels_out):
        nn = self.torch.nn
        last = nn.Conv2d(width, channels_out, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(
            nn.Conv2d(channels_in, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            last,
        )


class Normflows(_Torch):
    """normflows: its `GlowBlock` with LU, as in its example of Glow."""

    modules = ("normflows",)

    def build(self, depth, width):
        import normflows as nf

        height, _, channels = SHAPE
        priors, merges, flows = [], [], []
        for level in range(LEVELS):
            # From the top level to the finest.
            finer = LEVELS - 1 - level
            squeezed = channels * 2 ** (finer + 2)
            side = height // 2 ** (finer + 1)
            flows.append(
                [nf.flows.GlowBlock(squeezed, width) for _ in range(depth)]
                + [nf.flows.Squeeze()]
            )
            if level:
                merges.append(nf.flows.Merge())
            own = squeezed if not level else squeezed // 2
            priors.append(nf.distributions.GlowBase((own, side, side)))
        self.module = nf.MultiscaleFlow(priors, flows, merges, class_cond=False)

    def log_prob(self, x):
        return self.module.log_prob(x, None)

    def draw(self, count):
        return self.module.sample(count)


class Nflows(_Torch):
    """nflows, which has the parts of a Glow: assembled."""

    modules = ("nflows.transforms", "nflows.flows")

    def build(self, depth, width):
        from nflows import distributions, flows, transforms

        shape = SHAPE[2], *SHAPE[:2]
        multiscale = transforms.MultiscaleCompositeTransform(LEVELS)
        for _ in range(LEVELS):
            squeeze = transforms.SqueezeTransform()
            shape = squeeze.get_output_shape(*shape)
            steps = [squeeze]
            for _ in range(depth):
                steps += self._step(transforms, shape[0], width)
            shape = multiscale.add_transform(
                transforms.CompositeTransform(steps), shape
            )
        prior = distributions.StandardNormal([math.prod(SHAPE)])
        self.module = flows.Flow(multiscale, prior)

    def _step(self, transforms, channels, width):
        mask = self.torch.ones(channels)
        mask[channels // 2 :] = -1
        return (
            transforms.ActNorm(channels),
            transforms.OneByOneConvolution(channels),
            transforms.AffineCouplingTransform(
                mask, lambda n, m: self._network_of_context(n, width, m)
            ),
        )

    def _network_of_context(self, channels_in, width, channels_out):
        class Network(self.torch.nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, x, context=None):
                return self.network(x)

        return Network(self._network(channels_in, width, channels_out))

    def log_prob(self, x):
        return self.module.log_prob(x)

    def draw(self, count):
        return self.module.sample(count)


class Freia(_Torch):
    """FrEIA: its `AllInOneBlock`, whose rotation is fixed."""

    modules = ("FrEIA.framework", "FrEIA.modules")

    def build(self, depth, width):
        from FrEIA import framework, modules

        node = framework.InputNode(SHAPE[2], *SHAPE[:2])
        nodes = [node]
        for level in range(LEVELS):
            node = framework.Node(node, modules.IRevNetDownsampling, {})
            nodes.append(node)
            for _ in range(depth):
                node = framework.Node(
                    node,
                    modules.AllInOneBlock,
                    {
                        "subnet_constructor": lambda n, m: self._network(
                            n, width, m
                        ),
                        "permute_soft": True,
                    },
                )
                nodes.append(node)
            if level < LEVELS - 1:
                node = framework.Node(node, modules.Split, {})
                nodes += [node, framework.OutputNode(node.out1)]
                node = node.out0
        nodes.append(framework.OutputNode(node))
        self.module = framework.GraphINN(nodes)
        x = self.torch.zeros(1, SHAPE[2], *SHAPE[:2])
        self.shapes = [z.shape[1:] for z in self.module(x)[0]]

    def log_prob(self, x):
        latents, log_det = self.module(x)
        z = self.torch.cat([z.flatten(1) for z in latents], dim=1)
        constant = math.log(2 * math.pi) * z.shape[1] / 2
        return log_det - (z**2).sum(1) / 2 - constant

    def draw(self, count):
        latents = [
            self.torch.randn(count, *shape, device=self.device)
            for shape in self.shapes
        ]
        return self.module(latents, rev=True)


class TensorFlowProbability:
    """tfp.bijectors.Glow, with its default network at our width."""

    modules = ("tensorflow", "tensorflow_probability")

    def __init__(self, depth, width, batch_size):
        import tensorflow as tf
        import tensorflow_probability as tfp

        tfb, tfd = tfp.bijectors, tfp.distributions

        class Network(tfb.GlowDefaultNetwork):
            def __init__(self, input_shape):
                super().__init__(input_shape, num_hidden=width)

        self.batch_size = batch_size
        self.bijector = tfb.Glow(
            output_shape=SHAPE,
            num_glow_blocks=LEVELS,
            num_steps_per_block=depth,
            coupling_bijector_fn=Network,
            exit_bijector_fn=tfb.GlowDefaultExitNetwork,
        )
        dimensions = math.prod(SHAPE)
        self.prior = tfd.MultivariateNormalDiag(tf.zeros(dimensions))
        self.flow = tfd.TransformedDistribution(self.prior, self.bijector)
        optimizer = tf.keras.optimizers.Adam(LEARNING_RATE)

        def log_prob(images):
            x = tf.cast(images, tf.float32)
            x = (x + tf.random.uniform(tf.shape(x))) / 256 - 0.5
            return self.flow.log_prob(x)

        @tf.function
        def train_step(images):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(log_prob(images))
            variables = self.flow.trainable_variables
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))

        log_prob(np.zeros((batch_size, *SHAPE), "uint8"))  # makes the weights
        optimizer.build(self.flow.trainable_variables)
        self._train_step = train_step
        self._score = tf.function(log_prob)
        self._sample = tf.function(lambda: self.flow.sample(batch_size))

    def parameters(self):
        return sum(math.prod(v.shape) for v in self.flow.trainable_variables)

    def train(self, images):
        for start in range(0, len(images), self.batch_size):
            self._train_step(images[start : start + self.batch_size])

    def score(self, images):
        for start in range(0, len(images), self.batch_size):
            self._score(images[start : start + self.batch_size])

    def sample(self, count):
        for _ in range(0, count, self.batch_size):
            self._sample()


CONTENDERS = {
    "keras_glow": KerasGlow,
    "keras_glow, bfloat16": KerasGlowBfloat16,
    "normflows": Normflows,
    "FrEIA (fixed rotation)": Freia,
    "nflows (assembled)": Nflows,
    "tfp.bijectors.Glow": TensorFlowProbability,
}

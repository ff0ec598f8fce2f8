"""The Glows of other projects in NumPy, written from their conventions alone.

Each takes the weights of a checkpoint by name and images, and gives the
log-likelihood of each image (of the continuous image, in nats) and the latents
of every level: raw, and standardised. Float64, channels first as in PyTorch;
openai's weights are turned so.
"""

import math

import numpy as np


class Weights:
    """Random weights by name, remembered; or those of a dict."""

    def __init__(self, seed=None, values=None):
        self.rng = None if seed is None else np.random.default_rng(seed)
        self.values = {} if values is None else values

    def add(self, name, shape, size=0.1, mean=0.0):
        value = mean + size * self.rng.normal(size=shape)
        self.values[name] = value.astype("float32")

    def __getitem__(self, name):
        return np.asarray(self.values[name], "float64")

    def __contains__(self, name):
        return name in self.values


def convolve(x, kernel, around=0.0):
    """`kernel` is (outputs, inputs, size, size); `around` surrounds x."""
    size = kernel.shape[-1]
    edge = size // 2
    height, width = x.shape[2:]
    if edge:
        x = np.pad(
            x,
            ((0, 0), (0, 0), (edge, edge), (edge, edge)),
            constant_values=around,
        )
    y = 0.0
    for i in range(size):
        for j in range(size):
            part = x[:, :, i : i + height, j : j + width]
            y = y + np.einsum("oi,bihw->bohw", kernel[:, :, i, j], part)
    return y


def column(vector):
    return np.reshape(vector, (1, -1, 1, 1))


def squeeze(x):
    b, c, h, w = x.shape
    blocks = x.reshape(b, c, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4)
    return blocks.reshape(b, 4 * c, h // 2, w // 2)


def lu(p, lower, upper, sign, log_s):
    lower = np.tril(lower, -1) + np.eye(len(p))
    return p @ lower @ (np.triu(upper, 1) + np.diag(sign * np.exp(log_s)))


class Flow:
    """What all of them share; subclasses say how a part is computed.

    A subclass names a step, `step_name(level, step)`, and defines of it
    `actnorm(name, x)` to `(x, log|scale|)`, `matrix(name, channels)` and
    `network(name, a)` to h; `shift_and_h(h)`; `split_prior(level, kept)` and
    `top_prior(z, labels)`, both to `(mean, log_sigma)`; and `fill`, which makes
    random weights.
    """

    def __init__(self, weights, levels, depth, additive):
        self.w = weights
        self.levels = levels
        self.depth = depth
        self.depths = np.broadcast_to(depth, levels)
        self.additive = additive

    def run(self, x, labels=None):
        x = np.asarray(x, "float64")
        log_prob = np.zeros(len(x))
        raw, standard = [], []
        for level in range(self.levels):
            x = squeeze(x)
            pixels = x.shape[2] * x.shape[3]
            for step in range(self.depths[level]):
                name = self.step_name(level, step)
                x, log_scale = self.actnorm(name, x)
                log_prob += pixels * log_scale.sum()
                matrix = self.matrix(name, x.shape[1])
                x = np.einsum("oi,bihw->bohw", matrix, x)
                log_prob += pixels * np.linalg.slogdet(matrix)[1]
                a, b = np.split(x, 2, axis=1)
                h = self.network(name, a)
                if self.additive:
                    b = b + h
                else:
                    shift, h = self.shift_and_h(h)
                    scale = 1 / (1 + np.exp(-(h + 2)))
                    b = (b + shift) * scale
                    log_prob += np.log(scale).sum((1, 2, 3))
                x = np.concatenate([a, b], axis=1)
            if level < self.levels - 1:
                x, z = np.split(x, 2, axis=1)
                mean, log_sigma = self.split_prior(level, x)
            else:
                z = x
                mean, log_sigma = self.top_prior(z, labels)
            eps = (z - mean) / np.exp(log_sigma)
            density = -0.5 * (math.log(2 * math.pi) + eps**2) - log_sigma
            log_prob += density.sum((1, 2, 3))
            raw.append(z)
            standard.append(eps)
        return log_prob, raw, standard


class Rosinality(Flow):
    def step_name(self, level, step):
        return f"blocks.{level}.flows.{step}."

    def actnorm(self, name, x):
        scale = self.w[f"{name}actnorm.scale"]
        return scale * (x + self.w[f"{name}actnorm.loc"]), np.log(np.abs(scale))

    def matrix(self, name, channels):
        name = f"{name}invconv."
        if f"{name}weight" in self.w:
            return self.w[f"{name}weight"][:, :, 0, 0]
        parts = ("w_p", "w_l", "w_u", "s_sign", "w_s")
        return lu(*(self.w[f"{name}{part}"] for part in parts))

    def network(self, name, a):
        name = f"{name}coupling.net."
        for layer in ("0", "2"):
            a = convolve(a, self.w[f"{name}{layer}.weight"])
            a = np.maximum(a + column(self.w[f"{name}{layer}.bias"]), 0)
        return self.zero_conv(f"{name}4.", a)

    def zero_conv(self, name, x):
        y = convolve(x, self.w[f"{name}conv.weight"], around=1.0)
        y = y + column(self.w[f"{name}conv.bias"])
        return y * np.exp(3 * self.w[f"{name}scale"])

    def shift_and_h(self, h):
        h, shift = np.split(h, 2, axis=1)
        return shift, h

    def split_prior(self, level, kept):
        prior = self.zero_conv(f"blocks.{level}.prior.", kept)
        return np.split(prior, 2, axis=1)

    def top_prior(self, z, labels):
        return self.split_prior(self.levels - 1, np.zeros_like(z))

    def fill(self, channels, width):
        add = self.w.add
        for level in range(self.levels):
            c = 4 * channels * 2**level
            for step in range(self.depths[level]):
                name = self.step_name(level, step)
                add(f"{name}actnorm.loc", (1, c, 1, 1))
                add(f"{name}actnorm.scale", (1, c, 1, 1), 0.2, mean=1.0)
                scale = self.w.values[f"{name}actnorm.scale"]
                scale[:, ::3] *= -1  # it may well be negative
                self.w.values[f"{name}actnorm.initialized"] = np.array(
                    1, "uint8"
                )
                conv = f"{name}invconv."
                if step:
                    add(f"{conv}weight", (c, c, 1, 1), 0.1)
                    self.w.values[f"{conv}weight"] += np.eye(c, dtype="f4")[
                        ::-1, :, None, None
                    ]
                else:
                    fill_lu(
                        self.w,
                        *(f"{conv}{part}" for part in ("w_p", "w_l", "w_u")),
                        *(f"{conv}{part}" for part in ("s_sign", "w_s")),
                        c,
                    )
                    mask = np.triu(np.ones((c, c), "float32"), 1)
                    self.w.values[f"{conv}u_mask"] = mask
                    self.w.values[f"{conv}l_mask"] = mask.T.copy()
                    self.w.values[f"{conv}l_eye"] = np.eye(c, dtype="float32")
                net = f"{name}coupling.net."
                outputs = c // 2 if self.additive else c
                add(f"{net}0.weight", (width, c // 2, 3, 3))
                add(f"{net}0.bias", (width,))
                add(f"{net}2.weight", (width, width, 1, 1), 0.3)
                add(f"{net}2.bias", (width,))
                self.fill_zero_conv(f"{net}4.", width, outputs)
            last = level == self.levels - 1
            kept = c if last else c // 2
            self.fill_zero_conv(f"blocks.{level}.prior.", kept, 2 * kept)
        return self

    def fill_zero_conv(self, name, inputs, outputs):
        self.w.add(f"{name}conv.weight", (outputs, inputs, 3, 3))
        self.w.add(f"{name}conv.bias", (outputs,))
        self.w.add(f"{name}scale", (1, outputs, 1, 1))


def fill_lu(w, p, lower, upper, sign, log_s, c):
    """Both triangles are filled: the mask has to be applied."""
    w.values[p] = np.eye(c, dtype="float32")[w.rng.permutation(c)]
    w.add(lower, (c, c))
    w.add(upper, (c, c))
    w.values[sign] = w.rng.choice([-1, 1], c).astype("float32")
    w.add(log_s, (c,))


class Y0ast(Flow):
    net, conv, top = "block", "conv.", "learn_top_fn"
    lu = True
    classes = None

    def step_name(self, level, step):
        return f"flow.layers.{level * (self.depth + 2) + 1 + step}."

    def split_name(self, level):
        return f"flow.layers.{(level + 1) * (self.depth + 2) - 1}.conv."

    def actnorm(self, name, x):
        log_scale = self.w[f"{name}actnorm.logs"]
        return (x + self.w[f"{name}actnorm.bias"]) * np.exp(
            log_scale
        ), log_scale

    def matrix(self, name, channels):
        name = f"{name}invconv."
        if not self.lu:
            return self.w[f"{name}weight"]
        parts = ("p", "lower", "upper", "sign_s", "log_s")
        return lu(*(self.w[f"{name}{part}"] for part in parts))

    def network(self, name, a):
        for layer in ("0", "2"):
            inner = f"{name}{self.net}.{layer}."
            a = convolve(a, self.w[f"{inner}{self.conv}weight"])
            a, _ = self.actnorm(inner, a)
            a = np.maximum(a, 0)
        return self.zeros(f"{name}{self.net}.4.", a)

    def zeros(self, name, x):
        y = convolve(x, self.w[f"{name}{self.conv}weight"])
        y = y + column(self.w[f"{name}{self.conv}bias"])
        return y * np.exp(3 * column(self.w[f"{name}logs"]))

    def shift_and_h(self, h):
        return h[:, 0::2], h[:, 1::2]

    def split_prior(self, level, kept):
        h = self.zeros(self.split_name(level), kept)
        return h[:, 0::2], h[:, 1::2]

    def top_prior(self, z, labels):
        h = np.concatenate([np.zeros_like(z)] * 2, axis=1)
        if f"{self.top}.logs" in self.w:
            h = self.zeros(f"{self.top}.", h)
        if labels is not None:
            one_hot = np.eye(self.classes)[labels]
            y = one_hot @ self.w["project_ycond.weight"].T
            y = y + self.w["project_ycond.bias"]
            y = y * np.exp(3 * self.w["project_ycond.logs"])
            h = h + y[:, :, None, None]
        return np.split(h, 2, axis=1)

    def fill(self, channels, width, size, learn_top=True):
        add = self.w.add
        for level in range(self.levels):
            c = 4 * channels * 2**level
            for step in range(self.depth):
                name = self.step_name(level, step)
                add(f"{name}actnorm.bias", (1, c, 1, 1))
                add(f"{name}actnorm.logs", (1, c, 1, 1), 0.2)
                conv = f"{name}invconv."
                if self.lu:
                    parts = ("p", "lower", "upper", "sign_s", "log_s")
                    fill_lu(self.w, *(f"{conv}{p}" for p in parts), c)
                else:
                    add(f"{conv}weight", (c, c), 0.1)
                    self.w.values[f"{conv}weight"] += np.eye(c, dtype="f4")[
                        ::-1
                    ]
                for layer, inputs, k in ((0, c // 2, 3), (2, width, 1)):
                    inner = f"{name}{self.net}.{layer}."
                    shape = width, inputs, k, k
                    add(f"{inner}{self.conv}weight", shape, 0.2)
                    add(f"{inner}actnorm.bias", (1, width, 1, 1))
                    add(f"{inner}actnorm.logs", (1, width, 1, 1), 0.2)
                outputs = c // 2 if self.additive else c
                self.fill_zeros(f"{name}{self.net}.4.", width, outputs)
            if level < self.levels - 1:
                self.fill_zeros(self.split_name(level), c // 2, c)
        if learn_top:
            self.fill_zeros(f"{self.top}.", 2 * c, 2 * c)
        if self.classes:
            add("project_ycond.weight", (2 * c, self.classes), 0.3)
            add("project_ycond.bias", (2 * c,))
            add("project_ycond.logs", (2 * c,))
            add("project_class.weight", (self.classes, c))
            add("project_class.bias", (self.classes,))
            add("project_class.logs", (self.classes,))
        self.fill_prior_h(2 * c, *(n // 2**self.levels for n in size))
        return self

    def fill_prior_h(self, channels, height, width):
        shape = 1, channels, height, width
        self.w.values["prior_h"] = np.zeros(shape, "float32")

    def fill_zeros(self, name, inputs, outputs):
        self.w.add(f"{name}{self.conv}weight", (outputs, inputs, 3, 3))
        self.w.add(f"{name}{self.conv}bias", (outputs,))
        self.w.add(f"{name}logs", (outputs, 1, 1))


class Chaiyujin(Y0ast):
    net, conv, top = "f", "", "learn_top"
    lu = False

    def fill_prior_h(self, channels, height, width):
        shape = 12, channels, height, width  # the size of a batch
        self.w.values["prior_h"] = np.zeros(shape, "float32")


class Openai(Flow):
    permutation = "invconv"
    classes = None

    def step_name(self, level, step):
        return f"model/{level}/{step}/"

    def norm(self, name, x):
        log_scale = 3 * column(self.w[f"{name}_scale/logs"])
        bias = column(self.w[f"{name}_center/b"])
        return (x + bias) * np.exp(log_scale), log_scale

    def actnorm(self, name, x):
        return self.norm(f"{name}actnorm", x)

    def matrix(self, name, channels):
        if self.permutation == "invconv":
            return self.w[f"{name}invconv/W"].T  # a row times W
        order = np.arange(channels)[::-1]
        if self.permutation == "shuffle":
            order = self.w[f"{name}shuffle/indices"].astype(int)
        return np.eye(channels)[order]

    def conv(self, name, x):
        kernel = self.w[f"{name}W"].transpose(3, 2, 0, 1)
        if kernel.shape[-1] == 1:
            return convolve(x, kernel)
        # One channel more: 1 around the image and 0 inside.
        border = np.zeros_like(x[:, :1])
        return convolve(x, kernel[:, :-1]) + convolve(
            border, kernel[:, -1:], around=1.0
        )

    def network(self, name, a):
        for layer in ("l_1", "l_2"):
            inner = f"{name}f1/{layer}/"
            a, _ = self.norm(f"{inner}actnorm", self.conv(inner, a))
            a = np.maximum(a, 0)
        return self.zeros(f"{name}f1/l_last/", a)

    def zeros(self, name, x):
        y = self.conv(name, x) + column(self.w[f"{name}b"])
        return y * np.exp(3 * column(self.w[f"{name}logs"]))

    def shift_and_h(self, h):
        return h[:, 0::2], h[:, 1::2]

    def split_prior(self, level, kept):
        h = self.zeros(f"model/pool{level}/conv/", kept)
        return h[:, 0::2], h[:, 1::2]

    def top_prior(self, z, labels):
        h = np.concatenate([np.zeros_like(z)] * 2, axis=1)
        if "model/prior/p/W" in self.w:
            h = self.zeros("model/prior/p/", h)
        if labels is not None:
            y = np.eye(self.classes)[labels] @ self.w["model/prior/y_emb/W"]
            y = y + self.w["model/prior/y_emb/b"]
            y = y * np.exp(3 * self.w["model/prior/y_emb/logs"])
            h = h + y[:, :, None, None]
        return np.split(h, 2, axis=1)

    def fill(self, channels, width, learn_top=True):
        add = self.w.add
        for level in range(self.levels):
            c = 4 * channels * 2**level
            for step in range(self.depth):
                name = self.step_name(level, step)
                self.fill_norm(f"{name}actnorm", c)
                if self.permutation == "invconv":
                    add(f"{name}invconv/W", (c, c), 0.1)
                    eye = np.eye(c, dtype="float32")
                    self.w.values[f"{name}invconv/W"] += eye[::-1]
                elif self.permutation == "shuffle":
                    order = self.w.rng.permutation(c).astype("int32")
                    indices = f"{name}shuffle/indices"
                    self.w.values[indices] = order
                    self.w.values[f"{indices}_inverse"] = np.argsort(
                        order
                    ).astype("int32")
                net = f"{name}f1/"
                add(f"{net}l_1/W", (3, 3, c // 2 + 1, width), 0.2)
                self.fill_norm(f"{net}l_1/actnorm", width)
                add(f"{net}l_2/W", (1, 1, width, width), 0.3)
                self.fill_norm(f"{net}l_2/actnorm", width)
                outputs = c // 2 if self.additive else c
                self.fill_zeros(f"{net}l_last/", width, outputs)
            if level < self.levels - 1:
                self.fill_zeros(f"model/pool{level}/conv/", c // 2, c)
        if learn_top:
            self.fill_zeros("model/prior/p/", 2 * c, 2 * c)
        if self.classes:
            add("model/prior/y_emb/W", (self.classes, 2 * c), 0.3)
            add("model/prior/y_emb/b", (1, 2 * c))
            add("model/prior/y_emb/logs", (1, 2 * c))
            add("model/classifier/W", (c, self.classes))
        # Of the optimiser and of the averages.
        add("model/0/0/invconv/W_adam_m2", (4 * channels, 4 * channels))
        add("model/0/0/actnorm_center/b/ExponentialMovingAverage", (1,))
        self.w.values["global_step"] = np.array(7, "int64")
        return self

    def fill_norm(self, name, c):
        self.w.add(f"{name}_center/b", (1, 1, 1, c))
        self.w.add(f"{name}_scale/logs", (1, 1, 1, c))

    def fill_zeros(self, name, inputs, outputs):
        self.w.add(f"{name}W", (3, 3, inputs + 1, outputs))
        self.w.add(f"{name}b", (1, 1, 1, outputs))
        self.w.add(f"{name}logs", (1, outputs))

"""The bijections that a Glow is made of."""

from keras_glow.layers.actnorm import ActNorm
from keras_glow.layers.additive_coupling import AdditiveCoupling
from keras_glow.layers.affine_coupling import AffineCoupling
from keras_glow.layers.bijection import Bijection
from keras_glow.layers.flow_step import FlowStep
from keras_glow.layers.gaussian_prior import GaussianPrior
from keras_glow.layers.invertible_conv import InvertibleConv1x1
from keras_glow.layers.reverse import Reverse
from keras_glow.layers.shuffle import Shuffle
from keras_glow.layers.split import Split
from keras_glow.layers.squeeze import Squeeze
from keras_glow.layers.standardize import Standardize

__all__ = [
    "ActNorm",
    "AdditiveCoupling",
    "AffineCoupling",
    "Bijection",
    "FlowStep",
    "GaussianPrior",
    "InvertibleConv1x1",
    "Reverse",
    "Shuffle",
    "Split",
    "Squeeze",
    "Standardize",
]

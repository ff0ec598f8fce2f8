"""What the arguments of `Glow` may be, for those who read it without a backend.

The tables of the layers have the same names: `tests/cli/test_cli.py` holds
that.
"""

PERMUTATIONS = ("invertible_conv", "reverse", "shuffle")
COUPLINGS = ("additive", "affine")
NETWORKS = ("paper", "residual")
SCALES = ("bounded", "exp", "sigmoid")
NETWORK_DTYPES = (None, "float32", "float64", "bfloat16", "float16")
MEMORY = ("store", "remat", "reversible")
CLASS_PRIORS = ("all", "top")
CONTEXT_CHANNELS = (64, 32)  # of a `ContextNetwork`: hidden, features
MAX_WEIGHTS_SEED = 2**31 - 1  # fits the integers of every backend

"""`python -m keras_glow`: the command line, see `keras_glow.cli`."""

import sys

from keras_glow.cli.main import console

sys.exit(console())

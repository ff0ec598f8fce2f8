"""How layers become a density over images.

The arguments and the architecture of a Glow, the weights that follow from them,
the initialisation of ActNorm, pixels, noise, and running a model in batches.
May import `layers`, `data` and what these import.
"""

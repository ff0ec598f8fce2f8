"""The parts of `Glow.fit` beside Keras: guard, averages, checkpoints.

May import `flow`, `files.atomic` and what they import.
"""

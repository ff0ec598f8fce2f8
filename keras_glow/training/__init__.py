"""What `Glow.fit` needs beside Keras: guard, averages, checkpoints.

May import `flow`, `files.atomic` and what they import.
"""

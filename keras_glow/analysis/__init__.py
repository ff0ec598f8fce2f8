"""What a trained flow does to images, and how good its samples are.

May import `flow` and what it imports.
"""

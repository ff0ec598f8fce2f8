"""Judges a trained flow: its inverse, its fit, and how good its samples are.

May import `flow` and everything that `flow` imports.
"""

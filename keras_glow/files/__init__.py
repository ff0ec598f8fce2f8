"""Model files: written whole or not at all, read strictly, exported.

What a weights file must hold, the reader that trusts nothing in it, the trained
models that come with the package. May import `flow` and what it imports;
`atomic` imports `checks` alone.
"""

"""Model files: written whole or not at all, read strictly, exported.

The reader that trusts nothing in a file, the trained models that come with the
package. May import `flow` and what it imports;
`atomic` imports `checks` alone.
"""

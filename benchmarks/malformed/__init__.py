"""Malformed inputs: data files, model configurations, checkpoints and tokenizers, as data, and how commands end.

`cases` has what they share, `data_files`, `configs`, `checkpoints` and `vocabularies` the kinds, `__main__` runs them.
"""

"""Bradley-Terry reward models on NeMo 2 and Megatron-Core. Importing this package imports nothing heavy."""

__version__ = "0.1.0"

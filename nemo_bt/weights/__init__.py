"""Weights on disk: which tensor of Hugging Face makes which of Megatron, and reading and writing either, in pieces."""

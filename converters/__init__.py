"""Conversion between Hugging Face folders and .nemo, checked by comparing rewards."""

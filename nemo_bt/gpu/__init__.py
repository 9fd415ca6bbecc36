"""Transformer Engine on hosts with GPUs: built for the torch that is there, and packed for hosts without a registry."""

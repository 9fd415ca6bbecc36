"""Rewards of a trained model: groups of conversations -> streams -> rewards -> rows in their order."""

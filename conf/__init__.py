"""Hydra configurations, shipped as nemo_bt.conf."""

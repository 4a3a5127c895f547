"""Shipped configuration, one folder per choice; composed by Hydra."""

"""Measured runs beside simulated ones: what ``scripts/validate`` is made of."""

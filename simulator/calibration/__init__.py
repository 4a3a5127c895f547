"""Fitting the efficiency of GPU architectures to measurements; ``scripts/calibrate`` runs it."""

"""Steady-state design points, vectorised: evaluate, match the pools' rates, draw the fronts."""

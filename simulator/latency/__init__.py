"""Seconds of a forward pass, from one model of the hardware."""

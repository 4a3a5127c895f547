"""Pools: the workers that serve, where they sit on the fabric, and who is asked next."""

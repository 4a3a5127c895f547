"""Discrete events: the only user of simpy."""

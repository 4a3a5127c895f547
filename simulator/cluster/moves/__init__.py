"""Moves: what is carried from one worker to another, at a hand-over or a departure."""

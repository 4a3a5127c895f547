"""Decisions as pure functions of a frozen view."""

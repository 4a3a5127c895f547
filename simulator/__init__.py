"""Simulate disaggregated LLM inference."""

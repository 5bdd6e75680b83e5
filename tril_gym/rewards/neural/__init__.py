"""Scores computed by neural networks."""

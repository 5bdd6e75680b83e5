"""Scores computed from the text alone."""

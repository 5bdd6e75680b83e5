"""Actors: whatever writes texts."""

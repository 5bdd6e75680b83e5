"""Learners: what trains on collected texts."""

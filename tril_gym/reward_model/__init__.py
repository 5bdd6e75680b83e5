"""Train a reward model on preference pairs."""

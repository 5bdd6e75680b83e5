"""A training run: configuration, parts, folder, evaluation."""

"""The mathematics: pure functions of tensors. Imports torch only."""

"""The algorithms, one file each, and the agent that they share."""

"""Text generation as Gymnasium environments, and agents that learn in them, alone or with a guide."""

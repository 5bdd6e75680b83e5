"""Collection: actors write texts in a vector environment."""

"""What several packages share: files, caches, configuration fields, console."""

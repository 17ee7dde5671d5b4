"""What went wrong, from its beginning to its end, and who is told of it."""

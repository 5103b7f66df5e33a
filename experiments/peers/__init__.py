"""Other projects along the same paths."""

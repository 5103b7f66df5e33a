"""What the library adds to the paper."""

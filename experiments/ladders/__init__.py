"""Ladders: pictures, training, what is shipped."""

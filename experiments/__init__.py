"""Scripts that use the library, one question each; run as `python -m experiments.NAME`."""

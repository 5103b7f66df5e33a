"""What the experiments share: records, benchmarks, curves, pictures."""

"""How long and how far: benchmarks, exactness, tuning, reports."""

"""Benchmarks of the package, run as modules from its checkout; speed is measured here alone."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"

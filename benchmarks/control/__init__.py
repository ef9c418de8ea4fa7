"""Latency, serving and warm starts."""

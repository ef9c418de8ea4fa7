"""Closed loop: episodes, evaluation, simulated latency, the timed loop."""

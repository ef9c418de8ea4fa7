"""Measurements that README and docs cite; run them as ``python -m benchmarks.ROOM.NAME``."""

"""Training: one loop, objectives that differ by object."""

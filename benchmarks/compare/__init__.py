"""Solvers against other packages on the same weights."""

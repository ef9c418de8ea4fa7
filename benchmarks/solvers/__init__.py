"""Rounds and profiles of the solvers."""

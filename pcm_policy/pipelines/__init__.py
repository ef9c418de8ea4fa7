"""Pipelines of diffusers, solved in parallel rounds."""

"""Scripts that run an original implementation, each in an environment of its own."""

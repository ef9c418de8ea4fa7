"""One script for a machine with a GPU."""

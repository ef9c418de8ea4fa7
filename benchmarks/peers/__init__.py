"""Other people's few-call samplers, as rows of the study: one method a file."""

from benchmarks.peers import epd, warm

REGISTERED = {"epd": epd.EPD, "warm": warm.Warm}
"""Steps that are registered with those of the package when this is imported."""

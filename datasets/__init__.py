"""Demonstrations: replay buffers, windows, formats, and what is wrong with them."""

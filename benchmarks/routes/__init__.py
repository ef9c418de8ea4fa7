"""From scripted demonstrations to success."""

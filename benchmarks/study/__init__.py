"""PCM against its peers in closed loop."""

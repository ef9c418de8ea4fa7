"""LeRobot beside us, in an environment of its own."""

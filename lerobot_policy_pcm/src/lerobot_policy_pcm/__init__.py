"""LeRobot's policy type ``pcm``: importing this registers it."""

from lerobot_policy_pcm.configuration_pcm import PCMConfig

__all__ = ["PCMConfig"]

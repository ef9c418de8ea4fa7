"""A policy's solve as packages that run without this one, or on a robot without torch."""

from pcm_policy.export.packages import FixedSolve, example, export, fixed
from pcm_policy.export.robot import export_robot

__all__ = ["FixedSolve", "example", "export", "export_robot", "fixed"]

"""The controller: one object between a policy and a robot, and everything that drives it.

``controller`` decides what is solved and what is executed, without a clock and without torch. The
``planner`` and the ``server`` of :mod:`pcm_policy.serving` solve. :mod:`pcm_policy.rollout` gives
the controller the clock of a simulation or of a loop, ``client`` that of a robot. This room imports
with numpy alone, ``client`` and ``wire`` with websockets and msgpack too.
"""

from pcm_policy.control.controller import Command, Controller
from pcm_policy.control.delay import DelayEstimator
from pcm_policy.control.plan import Frame, Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings, PolicySpec

__all__ = [
    "Command",
    "ControlSettings",
    "Controller",
    "DelayEstimator",
    "Frame",
    "Plan",
    "PlanRequest",
    "PolicySpec",
]

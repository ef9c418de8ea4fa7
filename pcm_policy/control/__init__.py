"""The controller: one object between a policy and a robot, and everything that drives it.

``controller`` decides what is solved and what is executed, without a clock and without torch;
``planner`` solves; ``simulate``, ``loop``, ``server`` and ``client`` give it a clock. The side of
the robot (``controller``, ``client``, ``wire``) imports with numpy, websockets and msgpack alone.
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

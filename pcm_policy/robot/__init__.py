"""A policy on a robot without torch: numpy and ONNX Runtime or OpenVINO execute an exported folder.

``pcm-export formats=[robot]`` writes the folder; :func:`load` reads it. It holds all that a policy
has: normalisers, head, first guess, rounds, known prefix, warm start, certificate and limits. For
the same noise it gives the chunk of the policy that it was made from.
"""

from pcm_policy.draws import Draws
from pcm_policy.robot.policy import Prediction, RobotPolicy, load
from pcm_policy.robot.program import Solve

__all__ = ["Draws", "Prediction", "RobotPolicy", "Solve", "load"]

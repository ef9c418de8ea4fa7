"""Eager execution: one torch operation after another."""

from typing import TYPE_CHECKING, ClassVar

from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.dispatch import Direct
from pcm_policy.runtime.inputs import Execute
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.precision import in_precision

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy


class Eager(Mode):
    """Every solve as it is written; solves share nothing."""

    prepares: ClassVar[bool] = False

    def execute(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
        """Return what executes a policy's solves."""
        return Direct(in_precision(policy.network, config.precision))

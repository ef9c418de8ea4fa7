"""Executes one policy's solves in the mode that its config names."""

import threading
from typing import TYPE_CHECKING, Any

import torch

from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.inputs import Assemble, Execute, Inputs
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.modes import MODES
from pcm_policy.runtime.precision import TYPES, certified, require
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy


class Runtime:
    """Executes one policy's solves; may be called from several threads.

    Weights are taken when the first solve comes: make another runtime after changing them.

    Args:
        policy: the policy, on its device.
        config: how.

    Raises:
        PcmError: a mode that cannot run here, or another precision with a head that changes the
            network's weights.
    """

    def __init__(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> None:
        self.policy, self.config = policy, config
        self.mode.check(policy, config)
        if config.threads is not None and not self.mode.own_threads:
            torch.set_num_threads(config.threads)
        if policy.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = config.tf32
            torch.backends.cudnn.allow_tf32 = config.tf32
        self._made: Execute | None = None
        self._lock = threading.Lock()

    @property
    def mode(self) -> Mode:
        """The mode of the config."""
        return MODES.find(self.config.mode)

    @property
    def execute(self) -> Execute:
        """What executes solves, without what is certified; made once."""
        with self._lock:
            if self._made is None:
                self._made = self.mode.execute(self.policy, self.config)
            return self._made

    @property
    def facts(self) -> dict[str, Any]:
        """What executes, for results: package with version, and threads."""
        return self.mode.facts(self.config, self._made)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process or a copy cannot have: programs and locks."""
        return {"policy": self.policy, "config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make them again, when they are needed."""
        self.__dict__.update(state, _made=None, _lock=threading.Lock())

    def __call__(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        """Solve as :func:`~pcm_policy.runtime.inputs.eager` does; results are the caller's own.

        Raises:
            PcmError: a tolerance that the precision cannot settle.
        """
        dtype = TYPES[self.config.precision] or given.noise.initial.dtype
        require(solver.tolerance, dtype)
        return certified(self.execute(assemble, given, solver), solver, dtype)

"""LeRobot's ``multi_task_dit`` (0.6.1), its action chunks solved in parallel rounds.

Its loop is ``policy.objective.conditional_sample(model, batch_size, conditioning_vec)``. It takes
no noise and draws from torch's own generator: the chunk first, then, with DDPM, one chunk in every
step but the last. Here the same numbers are drawn in that order, before the solve, so that the
chunk is the one that the policy would have returned.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.scheduler import LEROBOT, Scheduling, euler_flow, scheduling
from pcm_policy.adopt.seam import Place, Seam
from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.registry import Solver

CONFIG = "the policy's config"


class MultiTaskDiT(Seam):
    """Parallel rounds for a ``multi_task_dit`` policy of LeRobot.

    Args:
        policy: LeRobot's policy.
        solver: a solver, or flat settings as ``solver=...`` takes them; None for Anderson rounds.
        seed: of the noise that a Jacobian is measured with; LeRobot's own noise is not touched.

    Raises:
        PcmError: another kind of policy, or an integrator that this package does not have.

    Example:
        ``with MultiTaskDiT(policy, {"method": "anderson", "tolerance": 1e-2}) as rounds:`` and in
        the block ``policy.select_action(batch)``; then ``rounds.last.certified``.
    """

    def __init__(
        self,
        policy: Any,
        solver: Solver | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if not is_multi_task_dit(policy):
            raise PcmError(f"{type(policy).__name__} is not a multi_task_dit of LeRobot")
        place = Place(policy.objective, "conditional_sample", first=policy.config.n_obs_steps - 1)
        super().__init__(place, own_sampling(policy.config), solver, seed)

    def __call__(self, model: Any, batch_size: int, conditioning_vec: Tensor) -> Tensor:
        """Return chunks ``(B, T, Da)``, as ``conditional_sample`` does.

        Raises:
            PcmError: the solve failed.
        """
        objective, weight = self.place.owner, next(model.parameters())
        size = (batch_size, objective.horizon, objective.action_dim)
        sampler = self.sampler(weight)
        like = torch.empty(size, dtype=weight.dtype, device=weight.device)
        noise = drawn(self.added, like, sampler.p.dtype)
        flow = self.sampling.schedule.is_flow

        def network(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            x_in, t_in = x.to(weight.dtype), (1.0 - t).to(weight.dtype) if flow else t
            output: Tensor = model(x_in, t_in, conditioning_vec=cond).to(x.dtype)
            return -output if flow else output  # there time runs from noise, here to it

        denoise = Denoiser(
            network, sampler, conditioning_vec, self.sampling.prediction, self.sampling.clip
        )
        return self.solve(denoise, noise).to(weight.dtype)


def is_multi_task_dit(policy: Any) -> bool:
    """Whether a policy has the loop that :class:`MultiTaskDiT` replaces."""
    loop = getattr(getattr(policy, "objective", None), "conditional_sample", None)
    return callable(loop) and hasattr(policy, "noise_predictor")


def own_sampling(config: Any) -> Scheduling:
    """Return the sampler that a policy's config describes.

    Flow matching runs from noise at time 0 to actions at time 1 in even Euler steps and does not
    clip. ``sigma_min`` changes the training alone: a step is affine in the end of the straight
    line, whatever it is.

    Raises:
        PcmError: a scheduler or an integrator that this package does not have.
    """
    if config.objective == "diffusion":
        given = {key: getattr(config, key) for key in LEROBOT}
        return scheduling(CONFIG, config.noise_scheduler_type, given, config.num_inference_steps)
    if config.objective != "flow_matching":
        raise PcmError(f"{CONFIG}: objective={config.objective!r} is unknown")
    if config.integration_method != "euler":
        raise PcmError(
            f"{CONFIG}: integration_method={config.integration_method!r} is not solved in rounds: "
            "set integration_method=euler"
        )
    return euler_flow(config.num_integration_steps)


def drawn(added: Sequence[bool], like: Tensor, dtype: torch.dtype) -> Noise:
    """Draw from torch's own generator what a loop of LeRobot draws, in its order.

    Args:
        added: whether a step adds noise; where it does not (the last step, at time 0) none is
            drawn.
        like: ``(B, T, Da)`` of the policy's type, on its device.
        dtype: of the result.
    """
    initial = torch.randn_like(like).to(dtype)
    if not any(added):
        return Noise(initial)
    steps = torch.zeros(len(added), *like.shape, dtype=dtype, device=like.device)
    for j, adds in enumerate(added):
        if adds:
            steps[j] = torch.randn_like(like)
    return Noise(initial, steps)

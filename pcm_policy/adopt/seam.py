"""Another policy's denoising loop, replaced by a solve of ours for as long as a block lasts.

Nothing of the other project is imported or changed: one attribute is set on one object, where it
hides the method of the object's class, and deleted again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from pcm_policy.adopt.scheduler import Scheduling
from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, Prefix
from pcm_policy.sampling.noise import Noise, generator_noise
from pcm_policy.sampling.samplers import AffineSampler, build_sampler
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.loop import start
from pcm_policy.solvers.newton import mean_jacobian
from pcm_policy.solvers.registry import Solver, read
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.step import Known, needs

JACOBIAN_ROWS = 12
"""Chunks of one observation over which a Jacobian is averaged."""


@dataclass(frozen=True)
class Place:
    """Where a policy's loop can be reached.

    Attributes:
        owner: the object that gets the attribute.
        name: the attribute, a method of the owner's class.
        first: index of the chunk's first action that is executed.
    """

    owner: Any
    name: str
    first: int = 0


class Seam:
    """A context manager: inside its block the policy's chunks are solved in parallel rounds.

    It can be entered again after it was left; the measured Jacobian is kept. One thread may use a
    policy at a time.

    Attributes:
        solver: what solves.
        known: ``(B or 1, n, A)`` actions that will be executed while the policy thinks, the
            first for the newest observation, as the policy's ``predict_action_chunk`` gives them;
            None for none. They are part of the equation and stay as they are.
        last: the newest solve: ``rounds``, ``certified``, ``bound``. None before the first.
    """

    def __init__(
        self,
        place: Place,
        sampling: Scheduling,
        solver: Solver | Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.place, self.sampling, self.seed = place, sampling, seed
        self.solver = completed(solver, sampling)
        self.known: Tensor | None = None
        self.last: SolveResult | None = None
        self._affine = build_sampler(sampling.schedule, self.solver.sampler)
        self._moved: AffineSampler | None = None
        self._jacobian: Jacobian | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Take the place of the policy's method; each kind of policy has its own."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Set the attribute.

        Raises:
            PcmError: something is in its place already.
        """
        owner, name = self.place.owner, self.place.name
        if name in vars(owner):
            raise PcmError(
                f"{type(owner).__name__}.{name} is replaced already: leave the other block first"
            )
        setattr(owner, name, self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete the attribute: the class's method is there again."""
        delattr(self.place.owner, self.place.name)

    @property
    def added(self) -> list[bool]:
        """Whether each of the sampler's steps adds noise; known without the device."""
        return [share > 0 for share in self._affine.noise.tolist()]

    def sampler(self, like: Tensor) -> AffineSampler:
        """Return the coefficients beside a tensor, at least in float32."""
        dtype = torch.promote_types(like.dtype, torch.float32)
        kept = self._moved
        if kept is None or kept.p.device != like.device or kept.p.dtype != dtype:
            kept = self._moved = self._affine.to(like.device, dtype)
        return kept

    @torch.no_grad()
    def solve(self, denoise: Denoiser, noise: Noise) -> Tensor:
        """Return chunks ``(B, T, D)`` and keep the result in ``last``.

        Args:
            denoise: the policy's ``D`` on :meth:`sampler`, without known actions.
            noise: all the randomness.

        Raises:
            PcmError: known actions that do not fit the chunk, or a chunk that is not finite.
        """
        jacobian = self._measured(denoise, noise)
        if self.known is not None:
            denoise = replace(denoise, prefix=self._prefix(self.known, noise.initial))
        found = self.solver(*start(denoise, noise, jacobian=jacobian))
        if not bool(found.sample.isfinite().all()):
            raise PcmError(
                "the solve gave a non-finite action; nothing was returned. Check the weights, or "
                "use solver=sequential"
            )
        self.last = found
        return found.sample

    def _measured(self, denoise: Denoiser, noise: Noise) -> Jacobian | None:
        """Return the mean Jacobian, measured at the first solve, if the solver needs one."""
        if "jacobian" not in needs(self.solver.step):
            return None
        like = noise.initial
        if self._jacobian is None:
            generator = torch.Generator().manual_seed(self.seed)
            batch, shape = len(like), (like.shape[1], like.shape[2])
            rows = torch.arange(batch, device=like.device).repeat(-(-JACOBIAN_ROWS // batch))
            sampler = denoise.sampler
            drawn = generator_noise(generator, len(rows), shape, sampler.noise_steps)
            diagonal = mean_jacobian(denoise.pick(rows), drawn.to(like.device, like.dtype))
            self._jacobian = Jacobian.of(sampler, diagonal)
        return self._jacobian.to(like.device, like.dtype)

    def _prefix(self, known: Tensor, like: Tensor) -> Prefix:
        """Return actions ``(B, n, A)`` as part of chunks ``(B, T, D)``; entries past A are open.

        Raises:
            PcmError: a wrong shape, or a value that is not finite.
        """
        batch, horizon, width = like.shape
        first = self.place.first
        room = horizon - first
        shape = tuple(known.shape)
        fits = known.ndim == 3 and known.shape[0] in (1, batch)
        if not fits or known.shape[1] > room or known.shape[2] > width:
            raise PcmError(
                f"known actions have shape {shape}: expected ({batch} or 1, at most {room}, "
                f"at most {width})"
            )
        if not bool(known.isfinite().all()):
            raise PcmError("a known action is not finite")
        values, mask = torch.zeros_like(like), torch.zeros_like(like[:1], dtype=torch.bool)
        steps, entries = slice(first, first + known.shape[1]), slice(known.shape[2])
        values[:, steps, entries] = known.to(like)
        mask[:, steps, entries] = True
        return Prefix(values, mask)


def completed(solver: Solver | Mapping[str, Any] | None, sampling: Scheduling) -> Solver:
    """Return a solver with its sampler: the policy's own, unless another one is named.

    Args:
        solver: a solver, or flat settings as ``solver=...`` takes them; None for Anderson rounds
            until the chunk is certified to 1e-3.
        sampling: the policy's own.

    Raises:
        PcmError: unknown or wrong settings, or a solver that needs a head.
    """
    if not isinstance(solver, Solver):
        known = Known(sampling.sampler, sampling.schedule.train_steps, method="anderson")
        solver = read(solver or {}, known)
    elif solver.sampler is None:
        solver = replace(solver, sampler=sampling.sampler)
    if solver.uses_head:
        raise PcmError(
            f"solver={solver.method} needs a PCM head, and this policy has none: use "
            "solver=anderson, newton, picard or coarse"
        )
    return solver

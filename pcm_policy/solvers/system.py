"""The system of one solve, the iterate that it has reached, and the round that a step makes.

``X = F + M D(X)`` with ``M`` strictly lower triangular. Shapes: ``N`` steps, ``B`` batch, ``T``
horizon, ``Da`` action dimensions. Steps and stops treat all dimensions behind the batch alike: in
place of ``(B, T, Da)`` a sample may be an image ``(B, C, H, W)``, or have any other shape ``(B,
...)``. A *round* is one batched network call on the critical path; *NFE* counts evaluated states
per chunk.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, Nodes, at_nodes
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler
from pcm_policy.solvers.jacobian import Jacobian

if TYPE_CHECKING:
    from pcm_policy.heads.base import Head

Part = TypeVar("Part")


def combine(weights: Tensor, chunks: Tensor) -> Tensor:
    """Mix chunks: ``(r, c)`` weights times ``(c, B, T, Da)`` chunks is ``(r, B, T, Da)``."""
    return (weights @ chunks.flatten(1)).view(weights.shape[0], *chunks.shape[1:])


def within(chunks: Tensor, leading: int) -> tuple[int, ...]:
    """Return the dimensions of a chunk, those behind the ``leading`` ones: two for ``(N, B)``."""
    return tuple(range(leading, chunks.ndim))


def wide(values: Tensor, chunks: Tensor) -> Tensor:
    """View numbers, one for each leading index of chunks, so that they broadcast over each chunk.

    Args:
        values: of a shape that the chunks' begins with, ``(B,)`` or ``(N, B)`` for example.
        chunks: ``(B, T, Da)`` or ``(N, B, T, Da)``.
    """
    return values[(..., *(None,) * (chunks.ndim - values.ndim))]


def distance(new: Tensor, old: Tensor) -> Tensor:
    """Return the largest change of each state, ``(n, B)``, between states ``(n, B, T, Da)``."""
    return (new - old).abs_().amax(dim=within(new, 2))


def changed(part: Part, **values: Any) -> Part:
    """Return an :class:`Iterate` or a :class:`Round` with other values of some fields.

    As ``dataclasses.replace``, in a fifth of its time: every round makes several.
    """
    found = object.__new__(type(part))
    vars(found).update(vars(part), **values)
    return found


def forcing(sampler: AffineSampler, noise: Noise) -> Tensor:
    """Return ``F = p x_0 + S z``, shape ``(N + 1, B, T, Da)``: what the noise alone gives.

    Raises:
        PcmError: the sampler is stochastic and the noise for its steps is missing or too short.
    """
    start = sampler.p.view(-1, *(1,) * noise.initial.ndim) * noise.initial
    if not sampler.stochastic:
        return start
    if noise.steps is None or noise.steps.shape[0] < sampler.steps:
        have = 0 if noise.steps is None else noise.steps.shape[0]
        raise PcmError(
            f"a stochastic sampler of {sampler.steps} steps needs as many step noises, got {have}"
        )
    return start + combine(sampler.S, noise.steps[: sampler.steps])


@dataclass(frozen=True)
class System:
    """The equation ``X = F + M D(X)`` of one solve, with the policy's head and Jacobian.

    Attributes:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        F: ``(N + 1, B, T, Da)``, what the noise alone gives.
        head: the PCM head, for steps that use one.
        jacobian: the base's mean Jacobian on this sampler.

    Example:
        >>> import torch
        >>> from pcm_policy.sampling.denoise import Denoiser
        >>> from pcm_policy.sampling.noise import Noise
        >>> from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
        >>> from pcm_policy.sampling.schedules import NoiseSchedule
        >>> from pcm_policy.solvers import start
        >>> sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 8))
        >>> sampler = sampler.to("cpu", torch.float32)
        >>> network = lambda x, t, cond: 0.5 * x  # (n, T, Da) -> (n, T, Da)
        >>> denoise = Denoiser(network, sampler, torch.zeros(1, 0), "sample")
        >>> s, x = start(denoise, Noise(torch.ones(1, 4, 2)))
        >>> s.steps, s.F.shape
        (8, torch.Size([9, 1, 4, 2]))
        >>> s.sweep(torch.zeros(8, 1, 4, 2)).equal(s.F)
        True
    """

    denoise: Denoiser
    noise: Noise
    F: Tensor
    head: "Head | None" = None
    jacobian: Jacobian | None = None

    @property
    def steps(self) -> int:
        """``N``."""
        return self.denoise.sampler.steps

    def sweep(self, P: Tensor) -> Tensor:
        """Integrate predictions ``(N, B, T, Da)`` to states ``(N + 1, B, T, Da)``."""
        return self.F + combine(self.denoise.sampler.M, P)

    def encoded(self, nodes: Nodes | None = None) -> "System":
        """Return the system with steps and condition encoded ahead, for all rounds of a solve."""
        return replace(self, denoise=self.denoise.encode(nodes))

    def needed_head(self) -> "Head":
        """Return the head.

        Raises:
            PcmError: there is none.
        """
        if self.head is None:
            raise PcmError("this policy has no PCM head: run pcm-distill, or use solver=picard")
        return self.head

    def pick(self, rows: Tensor) -> "System":
        """Return the system of some rows of the batch, ``(b,)`` int64."""
        return replace(self, denoise=self.denoise.pick(rows), F=self.F[:, rows])


@dataclass(frozen=True)
class Iterate:
    """Where a solve is.

    Attributes:
        k: rounds so far.
        X: ``(N + 1, B, T, Da)`` states.
        P: ``(N, B, T, Da)`` the newest prediction at every node.
        moved: ``(N + 1, B)`` how far each state moved when it was last computed; 0 once exact.
        lo: index of the last state that is final in every row.
        index: ``(N + 1, 1)`` int64, the number of each state, under stops that prove rows.
        front: ``(B,)`` int64, index of the last final state of each row, under the same stops.
        over: ``(B,)`` bool, rows that have ended, under stops that end rows without a proof.
        rows: ``(b,)`` int64, rows that are still evaluated; None for all.
        taken: ``(B,)`` int64, rounds of each row, under stops that end rows.
        small: ``(n, 1)`` bool, which of the states after ``lo`` have settled, if one row is alone.
        cold: whether nodes that no round has reached have no prediction yet.
        at: ``(B,)`` int64, the round of each row, if rows are in different rounds (in training).

    Example:
        >>> import torch
        >>> from pcm_policy.sampling.denoise import Denoiser
        >>> from pcm_policy.sampling.noise import Noise
        >>> from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
        >>> from pcm_policy.sampling.schedules import NoiseSchedule
        >>> from pcm_policy.solvers import start
        >>> sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 8))
        >>> sampler = sampler.to("cpu", torch.float32)
        >>> network = lambda x, t, cond: 0.5 * x  # (n, T, Da) -> (n, T, Da)
        >>> denoise = Denoiser(network, sampler, torch.zeros(1, 0), "sample")
        >>> s, x = start(denoise, Noise(torch.ones(1, 4, 2)))
        >>> x.k, x.X.shape, x.P.shape
        (0, torch.Size([9, 1, 4, 2]), torch.Size([8, 1, 4, 2]))
    """

    k: int
    X: Tensor
    P: Tensor
    moved: Tensor
    lo: int = 0
    index: Tensor | None = None
    front: Tensor | None = None
    over: Tensor | None = None
    rows: Tensor | None = None
    taken: Tensor | None = None
    small: Tensor | None = None
    cold: bool = True
    at: Tensor | None = None

    @classmethod
    def trained(cls, X: Tensor, at: Tensor) -> "Iterate":
        """Return states ``(N + 1, B, T, Da)`` of rows that are in the rounds ``at``, ``(B,)``."""
        return cls(0, X, torch.zeros_like(X[1:]), torch.zeros_like(X.flatten(2)[..., 0]), at=at)

    def round_of_rows(self) -> Tensor:
        """Return the round that every row is in, ``(B,)`` int64."""
        if self.at is not None:
            return self.at
        return torch.full((self.X.shape[1],), self.k, dtype=torch.int64, device=self.X.device)

    def evaluate(self, s: System, nodes: Nodes, states: Tensor | None = None) -> Tensor:
        """Return ``D(X)`` at some nodes; rows that have ended keep their predictions.

        Args:
            s: the system.
            nodes: which; ``n`` of them.
            states: ``(n, B, T, Da)`` to evaluate in place of ``X`` at these nodes.
        """
        x, rows = at_nodes(self.X, nodes) if states is None else states, self.rows
        if rows is None:
            return self._kept(s.denoise(x, nodes), nodes)
        return at_nodes(self.P, nodes).index_copy(1, rows, s.denoise.pick(rows)(x[:, rows], nodes))

    def correct(self, s: System, share: float, base: Tensor | None = None) -> Tensor:
        """Return the head's predictions at all nodes; rows that have ended keep theirs.

        Raises:
            PcmError: the system has no head.
        """
        head, rows = s.needed_head(), self.rows
        if rows is None:
            return self._kept(head(s, self, share, base), slice(None))
        some = replace(self, X=self.X[:, rows], P=self.P[:, rows])
        base = None if base is None else base[:, rows]
        return self.P.index_copy(1, rows, head(s.pick(rows), some, share, base))

    def base_round(self, s: System, P: Tensor, hi: int, nfe: int, *, full: bool = True) -> "Round":
        """Sweep the base's predictions; final states do not change.

        Args:
            s: the system.
            P: ``(N, B, T, Da)``.
            hi: index of the last state that the round computes.
            nfe: number of evaluated nodes.
            full: whether all nodes from ``lo`` to ``hi`` were evaluated.
        """
        if self.index is not None and self.front is not None:
            final = self.index[:-1] < self.front
            P = torch.where(wide(final, P), self.P, P)
        X = s.sweep(P)
        X[: self.lo + 1] = self.X[: self.lo + 1]
        whole = full and hi == s.steps
        return Round(self, P, X, X, hi, nfe, exact=1, full=full, whole=whole)

    def _kept(self, found: Tensor, nodes: Nodes) -> Tensor:
        """Return the new predictions at some nodes; rows that have ended keep theirs."""
        if self.over is None:
            return found
        return torch.where(wide(self.over, found[0]), at_nodes(self.P, nodes), found)

    def head_round(self, s: System, P: Tensor) -> "Round":
        """Sweep a head's predictions; every state may move, except in rows that have ended."""
        nodes = s.needed_head().nodes(s.denoise.sampler)[0]
        nfe = s.steps if isinstance(nodes, slice) else len(nodes)
        front = None if self.front is None else torch.where(self.front == s.steps, s.steps, 0)
        before = changed(self, lo=0, front=front, cold=False)
        return changed(before.base_round(s, P, s.steps, nfe, full=False), exact=0)


@dataclass(frozen=True)
class Round:
    """What a step made of an iterate.

    Attributes:
        before: the iterate that the round started from.
        P: ``(N, B, T, Da)`` predictions.
        swept: ``(N + 1, B, T, Da)``, ``F + M P``.
        X: ``(N + 1, B, T, Da)`` proposed states, in a tensor of the round's own: ``swept``, or a
            correction of it.
        hi: index of the last state that the round computes.
        nfe: number of evaluated nodes.
        exact: number of leading states that became exact: 1 after a base round, 0 after a head's.
        full: whether the base was evaluated at all nodes of the round's window.
        whole: whether it was evaluated at all nodes up to the last; then the residual bounds the
            error.
        calls: number of network calls, one after another.

    Example:
        >>> import torch
        >>> from pcm_policy.sampling.denoise import Denoiser
        >>> from pcm_policy.sampling.noise import Noise
        >>> from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
        >>> from pcm_policy.sampling.schedules import NoiseSchedule
        >>> from pcm_policy.solvers import Picard, start
        >>> sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 8))
        >>> sampler = sampler.to("cpu", torch.float32)
        >>> network = lambda x, t, cond: 0.5 * x  # (n, T, Da) -> (n, T, Da)
        >>> denoise = Denoiser(network, sampler, torch.zeros(1, 0), "sample")
        >>> s, x = start(denoise, Noise(torch.ones(1, 4, 2)))
        >>> r, _ = Picard().step(s, x, None)
        >>> r.nfe, r.exact, r.whole
        (8, 1, True)
    """

    before: Iterate
    P: Tensor
    swept: Tensor
    X: Tensor
    hi: int
    nfe: int
    exact: int
    full: bool
    whole: bool
    calls: int = 1

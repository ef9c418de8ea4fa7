"""From network outputs to clean chunks: the map ``D`` of ``X = F + M D(X)``.

Shapes: ``n`` states of the trajectory, ``B`` batch, ``T`` horizon, ``Da`` action dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, cast, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import AffineSampler

PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_velocity"]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x (B, T, Da), t (B,), cond (B, C)) -> (B, T, Da)``."""

ENCODED_ROWS = 1024
"""Most rows, nodes times batch, that are encoded ahead: a row is kept for the whole solve and takes
57 kB with a 65 M U-Net."""
FAR = 1e8
"""Predictions are cut off here before they are clipped. DDIM multiplies what clipping takes away,
by a hundred where it takes small steps: states that are not final yet would grow from round to
round until they are not finite, and the final ones with them (zero times infinity is no number)."""


class TwoStage(Protocol):
    """A network with a part that depends only on step and condition, not on the states."""

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(...)`` steps and ``(..., C)`` conditions, broadcast, to ``(..., E)``."""

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks and ``(B, E)`` to ``(B, T, Da)``."""


def to_clean(
    output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, prediction: PredictionType
) -> Tensor:
    """Convert a network output at ``x = alpha clean + sigma noise`` to the clean chunk.

    ``v_prediction`` is Salimans and Ho 2022, ``v = alpha noise - sigma clean``; ``flow_velocity``,
    for ``alpha + sigma = 1``, is Lipman et al. 2023, ``v = noise - clean``.
    """
    if prediction == "epsilon":
        return (x - sigma * output) / alpha
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return alpha * x - sigma * output
    if prediction == "flow_velocity":
        return x - sigma * output
    raise PcmError(f"unknown prediction type {prediction!r}: use one of {get_args(PredictionType)}")


def training_target(
    clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, prediction: PredictionType
) -> Tensor:
    """Return what the network is trained to output at ``alpha clean + sigma noise``."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    if prediction == "v_prediction":
        return alpha * noise - sigma * clean
    if prediction == "flow_velocity":
        return noise - clean
    raise PcmError(f"unknown prediction type {prediction!r}: use one of {get_args(PredictionType)}")


Nodes = slice | Tensor
"""State indices within ``0..N-1``: a slice, or ``(n,)`` int64 on the sampler's device."""


def at_nodes(values: Tensor, nodes: Nodes) -> Tensor:
    """Return what ``(N, ...)`` values are at some nodes; engines gather faster than they index."""
    return values[nodes] if isinstance(nodes, slice) else values.index_select(0, nodes)


@dataclass(frozen=True)
class Prefix:
    """Known actions of a chunk: those that will be executed while the solve runs.

    They are part of ``D``, so every solver finds the chunk of the same sequential sampler.

    Attributes:
        values: ``(B, T, Da)`` normalised actions; read only where ``known``.
        known: ``(B, T, 1)`` or ``(1, T, 1)`` bool; with ``Da`` in place of 1 an entry each.
        overwrite_input: show the network the clean values in place of its noisy input too, as
            diffusion_policy's inpainting does. False is the replacement sampler (Lugmayr et al.
            2022 without resampling): the state keeps its noise level, the prediction is replaced.
    """

    values: Tensor
    known: Tensor
    overwrite_input: bool = False

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Prefix":
        """Return a copy on ``device`` whose values are ``dtype``."""
        values, known = self.values.to(device=device, dtype=dtype), self.known.to(device)
        return replace(self, values=values, known=known)

    def pick(self, rows: Tensor) -> "Prefix":
        """Return some rows of the batch."""
        known = self.known if len(self.known) == 1 else self.known[rows]
        return replace(self, values=self.values[rows], known=known)

    def features(self, steps: int) -> Tensor:
        """Return ``(B, steps * (Da + 1))``: the first steps' known actions, or zeros, and which."""
        known = self.known[:, :steps].expand(*self.values[:, :steps].shape[:2], 1)
        shown = torch.where(known, self.values[:, :steps], 0.0)
        return torch.cat([shown, known.to(shown)], dim=2).flatten(1)

    def beside(self, more: int) -> "Prefix":
        """Return the same actions for chunks with ``more`` unknown dimensions after theirs."""
        known = self.known.expand(*self.known.shape[:2], self.values.shape[2])
        return replace(self, values=pad(self.values, (0, more)), known=pad(known, (0, more)))

    def apply(self, clean: Tensor) -> Tensor:
        """Overwrite the known steps of ``(..., B, T, Da)`` chunks."""
        return torch.where(self.known, self.values, clean)


def inpainting(seen: Tensor, horizon: int, action_dim: int) -> Prefix:
    """Make observations known entries of the trajectory, as diffusion_policy's inpainting does.

    There a chunk holds actions and observations side by side, ``(B, T, Da + Do)``, and the network
    sees no condition: before every call the observed entries of its input are overwritten.

    Args:
        seen: ``(B, To, Do)`` normalised observations of the chunk's first steps.
        horizon: ``T``.
        action_dim: ``Da``.
    """
    steps, width = seen.shape[1:]
    step = torch.arange(horizon, device=seen.device)[:, None]
    entry = torch.arange(action_dim + width, device=seen.device)
    known = ((step < steps) & (entry >= action_dim))[None]
    return Prefix(pad(seen, (action_dim, 0, 0, horizon - steps)), known, overwrite_input=True)


@dataclass(frozen=True)
class Denoiser:
    """``D``: the clean chunks that a network predicts at a slice of the trajectory's states.

    Attributes:
        network: the base network.
        sampler: supplies times, signal levels and the clipping rule.
        cond: ``(B, C)`` conditioning, shared by all states; a head sees it in any case.
        prediction: what the network outputs.
        clip: clean chunks are clipped to ``[-clip, clip]``; None leaves them alone.
        prefix: actions that are known already.
        encoded: ``(n, B, E)``, what the network makes of steps and condition, see :meth:`encode`.
        encoded_nodes: the ``n`` nodes that ``encoded`` holds; None for all.
        observed: observations that are entries of the trajectory, see :func:`inpainting`; the
            network then takes a condition of width 0.
    """

    network: Network
    sampler: AffineSampler
    cond: Tensor
    prediction: PredictionType = "epsilon"
    clip: float | None = 1.0
    prefix: Prefix | None = None
    encoded: Tensor | None = None
    encoded_nodes: Tensor | None = None
    observed: Prefix | None = None

    def __call__(self, x: Tensor, nodes: Nodes) -> Tensor:
        """Evaluate all states of ``x`` in one network call.

        Args:
            x: ``(n, B, T, Da)`` states ``x_j`` for ``j`` in ``nodes``.
            nodes: the ``n`` state indices.

        Returns:
            ``(n, B, T, Da)`` predictions in which the sampler is affine.
        """
        levels = (x.shape[0], *(1,) * (x.ndim - 1))
        overwritten = [known for known in (self.prefix, self.observed) if known is not None]
        for known in overwritten:
            x = known.apply(x) if known.overwrite_input else x
        output = self._predict(x, nodes)
        alpha = at_nodes(self.sampler.alpha, nodes).view(levels)
        sigma = at_nodes(self.sampler.sigma, nodes).view(levels)
        clean = to_clean(output, x, alpha, sigma, self.prediction)
        if self.clip is not None:
            clipped = clean.clamp(-self.clip, self.clip)
            clean = clipped if self.sampler.replaces else self._beyond(clean, clipped, nodes)
        for known in overwritten:
            clean = known.apply(clean)
        return clean

    def _beyond(self, clean: Tensor, clipped: Tensor, nodes: Nodes) -> Tensor:
        """Return predictions moved to the clipped ones, and as far beyond as the sampler says."""
        far = min(FAR, torch.finfo(clean.dtype).max)
        gain = at_nodes(self.sampler.clip_gain, nodes).view(-1, *(1,) * (clean.ndim - 1))
        return torch.lerp(clean.clamp(-far, far), clipped, gain)

    @property
    def _shown(self) -> Tensor:
        """The network's condition."""
        return self.cond if self.observed is None else self.cond[:, :0]

    def _predict(self, x: Tensor, nodes: Nodes) -> Tensor:
        """Return the network's output at ``(n, B, T, Da)`` states."""
        n, batch = x.shape[:2]
        rows = x.flatten(0, 1)
        encoded = self.encoded
        if encoded is not None and (self.encoded_nodes is None or self.encoded_nodes is nodes):
            encoded = at_nodes(encoded, nodes) if self.encoded_nodes is None else encoded
            return cast(TwoStage, self.network).decode(rows, encoded.flatten(0, 1)).view_as(x)
        t = at_nodes(self.sampler.timesteps, nodes).repeat_interleave(batch, output_size=n * batch)
        cond = self._shown
        cond = cond.expand(n, *cond.shape).flatten(0, 1)
        return self.network(rows, t, cond).view_as(x)

    def encode(self, nodes: Nodes | None = None) -> "Denoiser":
        """Return the same map with its nodes encoded ahead, for the rounds of one solve.

        It is this one where the network has no such stage or the rows are too many.

        Args:
            nodes: ``(n,)`` those that will be evaluated, all at once and named by this very
                tensor; None or a slice for all.
        """
        nodes = None if isinstance(nodes, slice) else nodes
        times = self.sampler.timesteps if nodes is None else at_nodes(self.sampler.timesteps, nodes)
        many = times.shape[0] * self.cond.shape[0] > ENCODED_ROWS
        if self.encoded is not None or many or not hasattr(self.network, "encode"):
            return self
        encoded = cast(TwoStage, self.network).encode(times[:, None], self._shown)
        return replace(self, encoded=encoded, encoded_nodes=nodes)

    def pick(self, rows: Tensor) -> "Denoiser":
        """Return the map for some rows of the batch, ``(b,)`` int64."""
        parts = {
            "prefix": self.prefix and self.prefix.pick(rows),
            "observed": self.observed and self.observed.pick(rows),
            "encoded": None if self.encoded is None else self.encoded[:, rows],
        }
        return replace(self, cond=self.cond[rows], **parts)  # type: ignore[arg-type]

    def with_network(self, network: Network) -> "Denoiser":
        """Return the same map with other weights."""
        return replace(self, network=network, encoded=None, encoded_nodes=None)

"""Window head: a small network that sees the whole trajectory and corrects base predictions."""

from typing import Any

import torch
from torch import Tensor, nn

from pcm_policy.denoise import Denoiser, Nodes
from pcm_policy.errors import PcmError
from pcm_policy.networks.mlp import AdaLNBlock
from pcm_policy.noise import Noise
from pcm_policy.samplers import AffineSampler
from pcm_policy.solvers.base import between_nodes, coarse_nodes, combine
from pcm_policy.solvers.newton import Jacobian, mean_jacobian


class WindowHead(nn.Module):
    """Correct all base predictions of a round at once: ``P + lambda(k) h(X, P, obs, k)``.

    ``P`` is ``D(X)``, or what a quasi-Newton step makes of it. The base network is called once a
    round and the correction is added, so that with a share of zero a round is one of the base
    model. The initial noise is the first state of the window; the output layer starts at zero, so
    an untrained head changes nothing.

    Args:
        steps: ``N``, number of states of the sampler it is trained for.
        action_dim: ``Da``.
        horizon: ``T``.
        cond_dim: ``C``.
        width: hidden width.
        depth: number of residual blocks.
        cond_width: width of the vector that modulates the blocks.
        max_rounds: later rounds share the last round's embedding.
        nodes: states that the base is evaluated at and the head sees; predictions in between are
            interpolated in log-SNR. None for all; so are more than there are.
        guess: the same weights also predict, from noise and observation alone, the chunks that a
            solve without a guess of its own starts from, see :meth:`first`.
        newton: start from the base's quasi-Newton step, see :mod:`pcm_policy.solvers.newton`; its
            Jacobian is part of the head, see :meth:`calibrate`.
    """

    on_base = True
    """It adds to a base prediction that may be given, see :mod:`pcm_policy.solvers.adaptive`."""

    def __init__(
        self,
        steps: int,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        width: int = 208,
        depth: int = 2,
        cond_width: int = 128,
        max_rounds: int = 4,
        nodes: int | None = None,
        guess: bool = False,
        newton: bool = False,
    ) -> None:
        super().__init__()
        if nodes is not None and nodes < 2:
            raise PcmError(f"head.options.nodes={nodes}: use 2 or more, or null for all")
        self.evaluations = steps if nodes is None else min(nodes, steps)
        self._spread: tuple[AffineSampler, Tensor, Tensor] | None = None
        self._jacobian: tuple[AffineSampler, Jacobian] | None = None
        self.diagonal: Tensor | None
        diagonal = torch.zeros(steps, horizon, action_dim) if newton else None
        self.register_buffer("diagonal", diagonal)
        window = self.evaluations * horizon * action_dim
        self.max_rounds, self.guess = max_rounds, guess
        self.cond = nn.Sequential(nn.Linear(cond_dim, cond_width), nn.SiLU())
        self.round = nn.Embedding(max_rounds + guess, cond_width)  # the guess has the last one
        self.inp = nn.Linear(2 * window, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width, cond_width, 2) for _ in range(depth))
        self.out = nn.Linear(width, window)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        denoise: Denoiser,
        forced: Tensor,
        states: Tensor,
        rounds: Tensor,
        strength: float,
        base: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean chunks of one PCM round.

        Args:
            denoise: the base map ``D``; its weights get no gradient.
            forced: ``(N, B, T, Da)``, what the noise alone gives.
            states: ``(N, B, T, Da)``, all states but the last.
            rounds: ``(B,)`` int64, index of the round each row is in.
            strength: the head's share lambda(k).
            base: ``D(states)`` where it is known already, at all states or at the head's nodes.

        Returns:
            ``(N, B, T, Da)``.
        """
        nodes, between = self.nodes(denoise)
        if base is None:
            with torch.no_grad():
                base = denoise(states[nodes], nodes)
        found = self.base(denoise, forced, states, base)
        seen, at = found[nodes], rounds.clamp(max=self.max_rounds - 1)
        correction = self._correct(denoise, states[nodes], seen, at)
        if between is not None:
            correction = combine(between, correction)
        return found + strength * correction

    def base(self, denoise: Denoiser, forced: Tensor, states: Tensor, base: Tensor) -> Tensor:
        """Return the predictions ``P`` of a round without the head, ``(N, B, T, Da)``.

        Args:
            denoise: the base map ``D``, for its sampler.
            forced: ``(N, B, T, Da)``, what the noise alone gives.
            states: ``(N, B, T, Da)``, all states but the last.
            base: ``D(states)`` at all states or at the head's nodes.
        """
        _, between = self.nodes(denoise)
        if between is not None and base.shape[0] != states.shape[0]:
            base = combine(between, base)
        jacobian = self.jacobian(denoise.sampler)
        return base if jacobian is None else jacobian.predict(base, forced, states)

    def jacobian(self, sampler: AffineSampler) -> Jacobian | None:
        """Return the base's mean Jacobian on a sampler; None if the head does without."""
        if self.diagonal is None:
            return None
        if self._jacobian is None or self._jacobian[0] is not sampler:
            with torch.inference_mode(False), torch.no_grad():
                self._jacobian = sampler, Jacobian.of(sampler, self.diagonal)
        return self._jacobian[1]

    def _load_from_state_dict(self, *args: Any) -> None:
        self._jacobian = None  # it was the former weights'
        super()._load_from_state_dict(*args)

    def calibrate(self, denoise: Denoiser, noise: Noise) -> None:
        """Measure the Jacobian on some observations, if the head uses one."""
        if self.diagonal is not None:
            self.diagonal.copy_(mean_jacobian(denoise, noise))
            self._jacobian = None

    def first(self, denoise: Denoiser, forced: Tensor) -> Tensor:
        """Predict the clean chunks to start from, without a network round of the base.

        Args:
            denoise: the base map ``D``, for its condition, prefix and sampler.
            forced: ``(N + 1, B, T, Da)``, what the noise alone gives.

        Returns:
            ``(N, B, T, Da)``.
        """
        nodes, between = self.nodes(denoise)
        states = forced[:-1][nodes]
        last = torch.full(states.shape[1:2], self.max_rounds, device=states.device)
        found = self._correct(denoise, states, torch.zeros_like(states), last)
        found = found if between is None else combine(between, found)
        return found if denoise.prefix is None else denoise.prefix.apply(found)

    def _correct(self, denoise: Denoiser, states: Tensor, base: Tensor, rounds: Tensor) -> Tensor:
        """Return ``(n, B, T, Da)`` from states and base predictions at the nodes."""
        seen = torch.cat([states, base]).transpose(0, 1).flatten(1)
        c = self.cond(denoise.cond) + self.round(rounds)
        h = self.inp(seen)
        for block in self.blocks:
            h = block(h, c)
        shape = states.transpose(0, 1).shape
        found: Tensor = self.out(h).view(shape).transpose(0, 1)
        return found

    def nodes(self, denoise: Denoiser) -> tuple[Nodes, Tensor | None]:
        """Return the evaluated nodes, and ``(N, n)`` weights that spread their values over all."""
        sampler = denoise.sampler
        if self.evaluations == sampler.steps:
            return slice(0, sampler.steps), None
        if self._spread is None or self._spread[0] is not sampler:
            chosen = coarse_nodes(self.evaluations, 0, sampler.steps)
            index = torch.tensor(chosen, device=sampler.alpha.device)
            self._spread = sampler, index, between_nodes(sampler, chosen, 0)
        return self._spread[1:]

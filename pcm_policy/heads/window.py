"""Window head: a small network that sees the whole trajectory and corrects base predictions."""

import torch
from torch import Tensor, nn

from pcm_policy.denoise import Denoiser
from pcm_policy.networks.mlp import AdaLNBlock


class WindowHead(nn.Module):
    """Correct all base predictions of a round at once: ``D(X) + lambda(k) h(X, D(X), obs, k)``.

    The base network is called once a round and the correction is added to it, so a share of zero
    *is* the base model. The initial noise is the first state of the window; the output layer starts
    at zero, so an untrained head changes nothing.

    Args:
        steps: ``N``, number of states of the sampler it is trained for.
        action_dim: ``Da``.
        horizon: ``T``.
        cond_dim: ``C``.
        width: hidden width.
        depth: number of residual blocks.
        cond_width: width of the vector that modulates the blocks.
        max_rounds: later rounds share the last round's embedding.
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
    ) -> None:
        super().__init__()
        window = steps * horizon * action_dim
        self.max_rounds = max_rounds
        self.cond = nn.Sequential(nn.Linear(cond_dim, cond_width), nn.SiLU())
        self.round = nn.Embedding(max_rounds, cond_width)
        self.inp = nn.Linear(2 * window, width)
        self.blocks = nn.ModuleList(AdaLNBlock(width, cond_width, 2) for _ in range(depth))
        self.out = nn.Linear(width, window)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        denoise: Denoiser,
        states: Tensor,
        rounds: Tensor,
        strength: float,
        base: Tensor | None = None,
    ) -> Tensor:
        """Predict the clean chunks of one PCM round.

        Args:
            denoise: the base map ``D``; its weights get no gradient.
            states: ``(N, B, T, Da)``, all states but the last.
            rounds: ``(B,)`` int64, index of the round each row is in.
            strength: the head's share lambda(k).
            base: ``D(states)`` where it is known already.

        Returns:
            ``(N, B, T, Da)``.
        """
        if base is None:
            with torch.no_grad():
                base = denoise(states, slice(0, states.shape[0]))
        seen = torch.cat([states, base]).transpose(0, 1).flatten(1)
        c = self.cond(denoise.cond) + self.round(rounds.clamp(max=self.max_rounds - 1))
        h = self.inp(seen)
        for block in self.blocks:
            h = block(h, c)
        correction: Tensor = self.out(h).view(-1, *states.transpose(0, 1).shape[1:]).transpose(0, 1)
        return base + strength * correction

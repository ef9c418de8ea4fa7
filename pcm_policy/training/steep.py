"""Which observations a pool takes: more of those where the base turns from one chunk to another."""

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.noise import Noise, generator_noise
from pcm_policy.solvers.system import System, forcing
from pcm_policy.training.batches import Batches, Cut, Windows, step_generator
from pcm_policy.training.sharing import ALONE, Team
from pcm_policy.training.taught import Taught, denoiser_of

MOVED, TRIES = 0.005, 3
"""Standard deviation by which observations are moved, in normalised units, and how often."""
AT_ONCE = 1000


class SteepRows:
    """Rows of a pool: half of them at random, half where the first guess is steepest.

    A base has few observations where a small movement turns its chunk into another one, and most
    of a head's error is there. The other half is chosen out of ``candidates`` times as many: those
    whose first guess changes most when the observation moves a little.

    Args:
        policy: with an earlier head, whose first guess has learnt.
        train: training windows.
        pool: rows of a pool.
        seed: all randomness derives from it.
        candidates: observations looked at for each that is taken.

    Raises:
        PcmError: the earlier head has no first guess.
    """

    def __init__(
        self, policy: Taught, train: Windows, pool: int, seed: int, candidates: int
    ) -> None:
        if policy.head is None or not policy.head.starts:
            raise PcmError(
                f"distill.candidates={candidates}: init=... needs a head with a first guess, which "
                "tells where chunks change; use another one, or distill.candidates=1"
            )
        count, steep = len(train.seen), pool // 2
        self.policy, self.seed, self.steep, self.candidates = policy, seed, steep, candidates
        self.head = policy.head
        self._chosen: dict[int, Tensor] = {}
        self._plain = Batches(count, pool - steep, seed)
        self._looked_at = Batches(count, max(1, steep) * candidates, seed + 1)

    def __call__(self, index: int, seen: Tensor | Cut, team: Team = ALONE) -> Tensor:
        """Return the rows of the pool ``index``; they are chosen once.

        Args:
            index: of the pool.
            seen: ``(n, To * Do)``, the observations of all windows, indexed by rows.
            team: processes that look at a part each; all of them must be here.

        Raises:
            PcmError: the earlier first guess has not learnt anything.
        """
        if index not in self._chosen:
            self._chosen[index] = self._choose(index, seen, team)
        return self._chosen[index]

    def _choose(self, index: int, seen: Tensor | Cut, team: Team) -> Tensor:
        looked_at = self._looked_at(index)
        mine = team.rows(len(looked_at))
        generator = step_generator(self.seed, 2**36 + index)
        steepness = team.whole(self._steepness(seen, looked_at, mine, generator), len(looked_at))
        if not steepness.any():
            raise PcmError(
                f"distill.candidates={self.candidates}: the first guess of init=... is the same "
                "for all observations; use a head that has learnt, or distill.candidates=1"
            )
        steepest = steepness.topk(self.steep).indices.cpu()
        return torch.cat([self._plain(index), looked_at[steepest]])

    @torch.no_grad()
    def _steepness(
        self, seen: Tensor | Cut, rows: Tensor, mine: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return how far the guess moves, a number for each row that is mine."""
        some = self.policy.join(seen[rows[:1].to(seen.device)], None)
        steps = denoiser_of(self.policy, some, None).sampler.noise_steps
        noise = generator_noise(generator, len(rows), self.policy.config.chunk_shape, steps)
        moves = MOVED * torch.randn(TRIES, len(rows), seen.shape[1], generator=generator)
        found = []
        for some in torch.split(mine, AT_ONCE):
            observed = seen[rows[some].to(seen.device)]
            drawn = noise.pick(some).to(observed.device, observed.dtype)
            before = self._guess(observed, drawn)
            moved = [self._guess(observed + move, drawn) for move in moves[:, some].to(observed)]
            far = (torch.stack(moved) - before).square().mean(dim=(2, 3)).sqrt()
            found.append(far.sum(dim=0))
        return torch.cat(found)

    def _guess(self, seen: Tensor, noise: Noise) -> Tensor:
        """Return the chunk ``(B, T, Da)`` that the first guess makes of observations."""
        denoise = denoiser_of(self.policy, self.policy.join(seen, None), None)
        s = System(denoise, noise, forcing(denoise.sampler, noise))
        found = self.head.guesses(s)
        assert found is not None
        return found[-1]

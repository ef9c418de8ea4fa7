"""A drifting policy (Deng et al. 2026, arXiv 2602.04770; for robots arXiv 2604.03540).

    python -m benchmarks.peers.drifting DEMONSTRATIONS OUTPUT [--policy released/pusht]

A generator maps noise and observation to a chunk in one call. In training it makes several chunks
of every observation. A field says where each should move: to the demonstrated chunk, and away from
the observation's other generated chunks, both weighted by the kernel ``exp(-distance / width)``.
The generator learns to make the moved chunk, which is held fixed. Where generated and demonstrated
chunks have the same distribution, the field is zero on average. Attraction and repulsion have one
normaliser here: an observation has one demonstrated chunk, and normalised alone the attraction to
it would be the same at any distance.

Network, data and loop are the base's. Training starts from the base's weights: a base that predicts
the noise knows observations and chunks, but has to learn to answer pure noise with a chunk, as for
``benchmarks.peers.high_noise``. ``python -m benchmarks.study.pcm --drifting OUTPUT/policy`` samples
the result in one step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from benchmarks.peers import trained_parser
from pcm_policy.cli.tasks import reading_of
from pcm_policy.policy.folder import save_policy
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.tensors import round_to_half
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.training.batches import Windows, step_generator
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.headed import without_head
from pcm_policy.training.launch import launched
from pcm_policy.training.loop import fit
from pcm_policy.training.output import occupied
from pcm_policy.training.reading import load_demonstrations
from pcm_policy.training.sharing import Share

SAMPLES, WIDTHS = 4, (0.05, 0.2, 0.8)
"""Chunks that are generated for an observation; root mean squares that kernels are as wide as."""
RECIPE = TrainConfig(
    steps=2400, batch=32, lr=5e-4, warmup=100, ema=0.998, seed=3, save_every=200, log_every=100
)


def drift(x: Tensor, wanted: Tensor, widths: Sequence[float]) -> Tensor:
    """Return where generated samples should move: ``(B, G, D)``, the field at ``x``.

    ``V(x) = (E_p[k (y - x)] - E_q[k (y - x)]) / (E_p[k] + E_q[k])`` with the kernel
    ``k = exp(-|y - x| / width)``, ``p`` what is wanted and ``q`` the other samples; the mean over
    several widths.

    Args:
        x: ``(B, G, D)`` samples, at least two of every row.
        wanted: ``(B, P, D)``.
        widths: of the kernel.
    """
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    near, apart = torch.cdist(x, wanted), torch.cdist(x, x).masked_fill(itself, torch.inf)
    every = torch.cat([wanted, x], dim=1)
    positives, samples = wanted.shape[1], x.shape[1]
    weight = [1 / positives] * positives + [1 / (samples - 1)] * samples
    weigh = torch.tensor(weight, dtype=x.dtype, device=x.device).log()
    sign = torch.tensor([1.0] * positives + [-1.0] * samples).to(x)
    level = torch.cat([near, apart], dim=2)
    found = torch.zeros_like(x)
    for width in widths:
        kernel = (weigh - level / width).softmax(dim=2) * sign
        found += kernel @ every - kernel.sum(dim=2, keepdim=True) * x
    return found / len(widths)


def generator_of(base: DiffusionPolicy) -> DiffusionPolicy:
    """Return a policy of one step with the base's weights, whose network's output is the chunk."""
    noisiest = base.config.schedule.train_steps - 1
    own = SamplerConfig("ddim", 1, timesteps=(noisiest,))
    return without_head(base, prediction="sample", sampler=own)


class Drifting(Cloning):
    """Distance of generated chunks to where the field moves them.

    Args:
        policy: of :func:`generator_of`.
        train: training windows.
        held_out: windows of other episodes.
        batch: observations of a step.
        seed: all randomness derives from it.
    """

    def __init__(
        self, policy: DiffusionPolicy, train: Windows, held_out: Windows, batch: int, seed: int
    ) -> None:
        super().__init__(policy, train, held_out, batch, seed)
        entries = policy.config.horizon * policy.config.action_dim
        self.widths = [width * entries**0.5 for width in WIDTHS]

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        rows, generator = share(self.rows(step)), step_generator(self.seed, step)
        made = self._generated(module, self.train, rows, generator)
        wanted = self.train.chunk[rows].flatten(1)[:, None]
        moved = made.detach() + drift(made.detach(), wanted, self.widths)
        return (made - moved).square().mean()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return the RMSE to held-out chunks, and of the samples to their mean."""
        count = len(self.held_out.chunk)
        rows = torch.linspace(0, count - 1, min(count, 256)).long()
        made = self._generated(module, self.held_out, rows, step_generator(self.seed, 2**32))
        wanted = self.held_out.chunk[rows].flatten(1)[:, None]
        off, spread = made - wanted, made - made.mean(dim=1, keepdim=True)
        return {
            "val_rmse": float(off.square().mean(dim=2).sqrt().mean()),
            "val_spread": float(spread.square().mean(dim=2).sqrt().mean()),
        }

    def _generated(
        self, module: nn.Module, windows: Windows, rows: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return ``(B, SAMPLES, T Da)`` chunks of some windows."""
        config = self.policy.config
        shape = len(rows) * SAMPLES, config.horizon, config.action_dim
        noise = torch.randn(shape, generator=generator)
        cond = self.policy.join(windows.seen[rows], None).repeat_interleave(SAMPLES, dim=0)
        t = torch.full((len(cond),), config.schedule.train_steps - 1)
        found: Tensor = module(noise, t, cond)
        return found.reshape(len(rows), SAMPLES, -1)


def main(words: Sequence[str] | None = None) -> None:
    """Train, or go on where that was cut off."""
    parser = trained_parser(__doc__)
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    base = DiffusionPolicy.from_pretrained(options.policy)
    policy, recipe = generator_of(base), replace(RECIPE, steps=options.steps)
    policy.requires_grad_(True)
    dataset = DatasetConfig(options.data).filled(reading_of(base.config, {}))
    options.output.mkdir(parents=True, exist_ok=True)
    resume = (options.output / "checkpoints").exists()
    with occupied(options.output, resume=resume):
        data = load_demonstrations(dataset, policy.config)
        objective = Drifting(policy, *data.windows(policy), recipe.batch, recipe.seed)
        average = fit(
            objective, recipe, options.output, launched(torch.device("cpu")), resume=resume
        )
        policy = objective.adopt(average).eval()
        round_to_half(policy.network)
        save_policy(policy, options.output / "policy", observations=data.observations(policy))
    print(options.output / "policy")


if __name__ == "__main__":
    main()

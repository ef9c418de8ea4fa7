"""The paper's training objective against a loop over recorded trajectories, and its full copy."""

import pytest
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.heads.copy import CopyHead
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.pcm import ramp
from pcm_policy.solvers.system import combine
from pcm_policy.training.batches import Batches, Windows
from pcm_policy.training.distillation import FLOOR, Distillation
from pcm_policy.training.headed import with_head
from pcm_policy.training.sharing import Share
from tests.problems import make_head, problem
from tests.solving import call, picard, sequential

K, POOL, STEPS = 3, 10, 5
LORA = {"name": "lora", "options": {"rank": 2}}
COPY = {"name": "copy", "options": {}}


def randomized(module: torch.nn.Module, scale: float = 0.2) -> None:
    torch.manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))


def with_random_head(head: dict[str, object]) -> DiffusionPolicy:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1, "step_embed_dim": 8}
    base = DiffusionPolicy(PolicyConfig(3, 2, horizon=8, action_steps=4, network_options=network))
    randomized(base.network)
    policy = with_head(base, head, {"steps": STEPS}, seed=0, rounds=K)
    assert policy.head is not None
    randomized(policy.head, 0.05)
    return policy


def windows() -> Windows:
    torch.manual_seed(1)
    return Windows(torch.randn(POOL, 6), torch.rand(POOL, 8, 2) * 2 - 1)


def recorded(policy: DiffusionPolicy, cond: Tensor, start: Tensor) -> tuple[Denoiser, list[Tensor]]:
    """The states of one row before every round of the base's own Picard iteration."""
    assert policy.config.head is not None
    denoise = policy.denoiser(cond, policy.config.head.sampler)
    noise = Noise(start)
    states: list[Tensor] = [sequential_start(denoise, noise)]
    picard(denoise, noise, rounds=K - 1, watch=lambda x: states.append(x.clone()))
    return denoise, states


def sequential_start(denoise: Denoiser, noise: Noise) -> Tensor:
    """Cold: clean chunks of zeros leave the share of the initial noise in every state."""
    return denoise.sampler.p.view(-1, 1, 1, 1) * noise.initial


@pytest.mark.parametrize("head", [LORA, COPY], ids=["lora", "copy"])
@pytest.mark.parametrize(
    ("weight", "end"), [("variance", 0.0), ("none", 0.3), ("root", 0.3), ("row", 0.0)]
)
@torch.no_grad()
def test_the_loss_row_by_row(head: dict[str, object], weight: str, end: float) -> None:
    """The paper's: E_k 1 / sqrt(Var(k)) |Phi(X^k; theta) - X*|^2 over recorded base trajectories.

    And the other weights; ``end`` counts the last state's error once more.
    """
    policy, data = with_random_head(head), windows()
    objective = Distillation(
        policy,
        data,
        data,
        4,
        3,
        own=0.0,
        weight=weight,
        end_weight=end,
        pool=POOL,
        warm=0.0,
        prefix=0.0,
    )
    assert policy.head is not None
    policy.head.train()
    found = objective.loss(policy.head, 1, Share(0, 1))
    pool = objective.targets(0)
    distance: list[list[float]] = []
    losses: list[list[float]] = []
    for i in range(POOL):
        denoise, states = recorded(policy, pool.cond[i : i + 1], pool.forced[0, i : i + 1])
        exact = sequential(denoise, Noise(pool.forced[0, i : i + 1])).trajectory
        torch.testing.assert_close(exact[:, 0], pool.exact[:, i], rtol=0, atol=1e-5)
        distance.append([float((x - exact)[:-1].square().mean()) for x in states])
        row = []
        for k, x in enumerate(states):
            forced = pool.forced[:-1, i : i + 1]
            predictions = call(policy.head, denoise, forced, x[:-1], k, 1.0)
            jumped = pool.forced[:, i : i + 1] + combine(denoise.sampler.M, predictions)
            error = (jumped - exact).square()
            row.append(float(error.mean() + end * error[-1].mean()))
        losses.append(row)
    far, total = torch.tensor(distance), torch.tensor(losses)
    weighted = {
        "variance": total * far.mean(dim=0).rsqrt(),
        "none": total,
        "root": (total + FLOOR**2).sqrt(),
        "row": total / (far.sqrt() + 0.02),
    }[weight]
    expected = weighted[Batches(POOL, 4, 3)(1)].mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-3)


def test_unknown_weights_are_refused() -> None:
    data = windows()
    with pytest.raises(PcmError, match=r"distill.weight=var: use root, row, variance or none"):
        Distillation(with_random_head(LORA), data, data, 4, 0, weight="var")


def test_the_copy_starts_as_the_base_and_learns_alone() -> None:
    torch.manual_seed(0)
    network = {"width": 16, "depth": 1}
    base = DiffusionPolicy(PolicyConfig(3, 2, horizon=8, action_steps=4, network_options=network))
    randomized(base.network)
    policy = with_head(base, COPY, {"steps": STEPS}, seed=5)
    assert isinstance(policy.head, CopyHead)
    before = base.network.state_dict()
    assert all(torch.equal(v, before[k]) for k, v in policy.head.network.state_dict().items())
    data = windows()
    objective = Distillation(policy, data, data, 4, 0, pool=POOL)
    objective.loss(policy.head.train(), 0, Share(0, 1)).backward()
    assert all(p.grad is None for p in policy.network.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in policy.head.parameters())


def test_feature_switching_mixes_the_two_sweeps() -> None:
    """lambda Phi(X; theta') + (1 - lambda) Phi(X; theta), So et al. 2025."""
    denoise, noise = problem()
    head = make_head("copy", denoise)
    assert isinstance(head, CopyHead)
    shares = ramp(4, 1.0)
    found = picard(denoise, noise, rounds=4, head=head, shares=shares).trajectory
    x = sequential_start(denoise, noise)
    forced, M = x.clone(), denoise.sampler.M
    for share in shares:
        own = forced + combine(M, denoise.with_network(head.network)(x[:-1], slice(0, len(x) - 1)))
        base = forced + combine(M, denoise(x[:-1], slice(0, len(x) - 1)))
        x = share * own + (1 - share) * base
    torch.testing.assert_close(found, x, rtol=0, atol=1e-4)

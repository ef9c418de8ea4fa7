"""Policies that are shown the actions which are known already, and trained so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.dispatch import Program
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver
from pcm_policy.training.batches import Windows, random_prefixes
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.make import continued_policy
from pcm_policy.training.sharing import Share

TINY = {"width": 32, "depth": 1}


def tiny(prefix_steps: int) -> DiffusionPolicy:
    torch.manual_seed(0)
    return DiffusionPolicy(PolicyConfig(3, 2, network_options=TINY, prefix_steps=prefix_steps))


def test_features_are_the_known_actions_and_which() -> None:
    values = torch.arange(1.0, 17.0).view(1, 8, 2).repeat(2, 1, 1)
    known = torch.zeros(2, 8, 1, dtype=torch.bool)
    known[1, 1:3] = True
    shown = Prefix(values, known).features(4).view(2, 4, 3)
    assert shown[0].abs().sum() == 0
    want = torch.tensor([[0.0, 0, 0], [3, 4, 1], [5, 6, 1], [0, 0, 0]])
    assert torch.equal(shown[1], want)
    everywhere = Prefix(values, known[1:]).features(4)
    assert torch.equal(everywhere[0], everywhere[1])


def test_drawn_prefixes_have_every_length_and_nothing_else() -> None:
    config = PolicyConfig(3, 2, obs_steps=2, prefix_steps=5)
    known = random_prefixes(config, 4000, torch.Generator().manual_seed(0), 5)[..., 0]
    assert not known[:, 5:].any()
    jumps = (known[:, 1:].int() - known[:, :-1].int()).eq(1).sum(dim=1)
    assert (jumps + known[:, 0] <= 1).all()  # one piece
    counts = np.bincount((known[:, 1:].sum(dim=1)).numpy(), minlength=5)
    assert (counts[:5] > [1800, 400, 400, 400, 400]).all()
    assert (counts[:5] < [2200, 600, 600, 600, 600]).all()
    past = known[known[:, 1], 0].float().mean()
    assert 0.4 < past < 0.6
    assert not random_prefixes(config, 10, torch.Generator(), 0).any()
    few = random_prefixes(config, 4000, torch.Generator().manual_seed(0), 5, share=0.1)
    assert 0.08 < few.any(dim=1).float().mean() < 0.12


@pytest.mark.parametrize(
    ("network", "options"),
    [("mlp", TINY), ("unet1d", {"down_dims": [8, 16], "step_embed_dim": 8})],
)
def test_a_policy_without_prefixes_goes_on_with_them(network: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    start = DiffusionPolicy(PolicyConfig(3, 2, network=network, network_options=options))
    config = replace(start.config, prefix_steps=6)
    policy = continued_policy(config, start)
    x, t, obs = torch.randn(4, 16, 2), torch.tensor([0, 10, 50, 99]), torch.rand(4, 2, 3)
    cond = policy.condition(obs, policy.known_prefix(np.ones((4, 3, 2))))
    assert cond[:, 6:].abs().sum() > 0
    found = policy.network(x, t, cond)
    torch.testing.assert_close(found, start.network(x, t, start.condition(obs)), rtol=0, atol=1e-5)
    found.square().sum().backward()
    columns = [p.grad for p in policy.network.parameters() if p.grad is not None]
    assert any(g.ndim == 2 and g[:, -18:].abs().sum() > 0 for g in columns)  # they learn
    with pytest.raises(PcmError, match="prefix_steps is 6"):
        continued_policy(start.config, policy)


def test_the_network_sees_the_prefix_and_the_chunk_keeps_it() -> None:
    policy = tiny(6)
    obs = torch.rand(2, 2, 3)
    noise = generator_noise(torch.Generator().manual_seed(1), 2, (16, 2), 0)
    solver = Solver.of("sequential", SamplerConfig("ddim", 8))
    free = policy.solve(obs, solver, noise).sample
    prefix = policy.known_prefix(np.full((2, 3, 2), 0.5))
    held = policy.solve(obs, solver, noise, prefix=prefix).sample
    torch.testing.assert_close(held[:, 1:4], prefix.values[:, 1:4], rtol=0, atol=1e-5)
    assert (held[:, 4:] - free[:, 4:]).abs().max() > 1e-4
    # Without the condition nothing of it would reach a denoiser's other rows in one step.
    cond = policy.condition(obs, prefix)
    assert cond.shape == (2, policy.config.cond_dim) == (2, 6 + 6 * 3)
    assert torch.equal(cond[:, :6], policy.condition(obs)[:, :6])
    assert policy.condition(obs)[:, 6:].abs().sum() == 0
    for method in ("picard", "anderson", "coarse"):
        found = policy.solve(obs, Solver.of(method, solver.sampler, rounds=8), noise, None, prefix)
        torch.testing.assert_close(found.sample, held, rtol=0, atol=1e-5)
    checked = Solver.of("picard", solver.sampler, tolerance=1e-4)
    with torch.inference_mode():
        i = Inputs(obs, noise, None, prefix)
        program = Program(policy.assemble, policy.network, checked, i, lambda function, _: function)
        torch.testing.assert_close(program(i).sample, held, rtol=0, atol=1e-4)


def test_known_steps_are_not_asked_for() -> None:
    """Changing the target of known steps alone must not change the gradient of a blind network."""
    policy = tiny(6)

    class Blind(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = torch.nn.Parameter(torch.zeros(16, 2))

        def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
            return self.out.expand_as(x)

    windows = Windows(torch.rand(64, 6), torch.rand(64, 16, 2))
    objective = Cloning(policy, windows, Windows(torch.zeros(0, 6), torch.zeros(0, 16, 2)), 64, 0)
    module = Blind()
    objective.loss(module, 0, Share(0, 1)).backward()
    assert module.out.grad is not None
    weight = module.out.grad.abs()
    assert (weight > 0).all()  # every step is asked for in some row
    full = tiny(0)
    plain = Cloning(full, windows, objective.held_out, 64, 0).loss(module, 0, Share(0, 1))
    assert plain.isfinite()


@pytest.fixture(scope="module")
def trained(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy whose chunk goes on from its prefix, after a short training on straight lines."""
    output = tmp_path_factory.mktemp("prefix") / "run"
    overrides = [
        "task=pusht",
        "network.options.width=64",
        "network.options.depth=1",
        "device=cpu",
        "threads=1",
    ]
    overrides += [f"dataset.path={demos}", f"output_dir={output}", "task.prefix_steps=6"]
    overrides += ["train.steps=300", "train.batch=64", "train.lr=0.003", "train.warmup=20"]
    return cli_train.train_main(compose("train", overrides))


def test_trained_and_saved_with_prefixes(trained: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(trained)
    assert policy.config.prefix_steps == 6
    assert policy.held_out is not None
    obs = policy.held_out[:64]
    noise = generator_noise(torch.Generator().manual_seed(1), len(obs), (16, 2), 0)
    solver = Solver.of("sequential", SamplerConfig("ddim", 8))
    centre = obs[:, -1:, 18:20].numpy()
    for shift in (-60.0, 60.0):
        known = np.clip(np.repeat(centre + shift, 3, axis=1), 0, 512)
        prefix = policy.known_prefix(known)
        chunk = policy.solve(obs, solver, noise, prefix=prefix).sample
        unseen = replace(prefix, known=torch.zeros_like(prefix.known))
        blind = policy.solve(obs, solver, noise, prefix=unseen).sample
        jump = (blind[:, 4] - prefix.values[:, 3]).abs().mean()
        assert (chunk[:, 4] - chunk[:, 3]).abs().mean() < 0.8 * jump


def test_more_demonstrations_are_trained_on(demos: Path, tmp_path: Path) -> None:
    from pcm_policy.training.dataset import DatasetConfig
    from pcm_policy.training.reading import load_demonstrations

    config = PolicyConfig(20, 2, obs_fields=("keypoint", "state[0:2]"))
    one = load_demonstrations(DatasetConfig(str(demos)), config)
    two = load_demonstrations(DatasetConfig(str(demos), more=[str(demos)]), config)
    everything = load_demonstrations(DatasetConfig(str(demos), 0.0), config)
    assert len(two.train) == len(one.train) + len(everything.train)
    assert np.array_equal(two.held_out, one.held_out)
    rows = two.train[len(one.train) :]
    torch.testing.assert_close(two.action[rows], everything.action[everything.train])
    torch.testing.assert_close(two.obs[two.train[: len(one.train)]], one.obs[one.train])
    with pytest.raises(PcmError, match=r"missing\.zarr"):
        load_demonstrations(
            DatasetConfig(str(demos), more=[str(tmp_path / "missing.zarr")]), config
        )

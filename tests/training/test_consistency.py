"""Consistency distillation and sampling against slower, obvious versions; chosen timesteps."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose, plain
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Prefix, to_clean
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule, timesteps
from pcm_policy.solvers.registry import Solver
from pcm_policy.training.batches import Batches, Windows, step_generator
from pcm_policy.training.consistency import HUBER, Consistency, Student, clean_at
from pcm_policy.training.sharing import Share

TINY = {"width": 16, "depth": 1, "step_embed_dim": 8}
SCHEDULE = NoiseSchedule()


def tiny(**changes: object) -> DiffusionPolicy:
    torch.manual_seed(0)
    policy = DiffusionPolicy(
        PolicyConfig(3, 2, horizon=8, action_steps=4, network_options=TINY, **changes)
    )
    with torch.no_grad():
        for p in policy.network.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return policy


def windows(policy: DiffusionPolicy, count: int = 12) -> Windows:
    torch.manual_seed(1)
    width = policy.config.obs_steps * policy.config.obs_dim
    return Windows(torch.randn(count, width), torch.rand(count, 8, 2) * 2 - 1)


def test_sampling_is_denoise_and_noise_again() -> None:
    policy = tiny(prediction="v_prediction", sampler=SamplerConfig("consistency", 4))
    obs = torch.randn(3, 2, 3)
    solver = Solver.of("sequential", policy.config.sampler)
    noise = episode_noise([5, 6, 7], [0, 0, 0], (8, 2), 4)
    found = policy.solve(obs, solver, noise).sample
    abar, visited = SCHEDULE.alphas_cumprod(), timesteps(100, 4, "trailing")
    cond, x = policy.condition(obs), noise.initial
    assert noise.steps is not None
    for j, t in enumerate(visited.tolist()):
        alpha, sigma = abar[t].sqrt().float(), (1 - abar[t]).sqrt().float()
        with torch.no_grad():
            output = policy.network(x, torch.full((3,), t), cond)
        chunk = (alpha * x - sigma * output).clamp(-1, 1)
        if j == 3:
            break
        after = abar[visited[j + 1]]
        x = after.sqrt().float() * chunk + (1 - after).sqrt().float() * noise.steps[j]
    torch.testing.assert_close(found, chunk, rtol=0, atol=2e-6)


def test_one_step_needs_no_step_noise() -> None:
    assert not build_sampler(SCHEDULE, SamplerConfig("consistency", 1)).stochastic
    assert build_sampler(SCHEDULE, SamplerConfig("consistency", 2)).stochastic


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp_2m", "consistency"])
def test_chosen_timesteps_of_a_spacing_are_that_spacing(name: str) -> None:
    plain = SamplerConfig(name, 5)  # type: ignore[arg-type]
    visited = build_sampler(SCHEDULE, plain).timesteps
    chosen = build_sampler(SCHEDULE, replace(plain, timesteps=tuple(visited.tolist())))
    for key, value in vars(build_sampler(SCHEDULE, plain)).items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(getattr(chosen, key))), key


def test_chosen_timesteps_survive_json_and_the_command_line() -> None:
    sampler = SamplerConfig("ddim", 3, timesteps=(99, 50, 7))
    assert SamplerConfig(**json.loads(json.dumps(asdict(sampler)))) == sampler
    solver = compose("eval", ["solver=ddim", "solver.timesteps=[99,50,7]", "output_dir=x"]).solver
    policy = tiny()
    assert policy.solver(plain(solver)).sampler == sampler
    assert policy.solver({"steps": 2}).sampler.timesteps is None
    own = tiny(sampler=sampler)
    assert own.solver({"method": "picard"}).sampler == sampler
    assert own.solver({"steps": 2}).sampler == SamplerConfig("ddim", 2)


@pytest.mark.parametrize(
    ("steps", "given", "more", "message"),
    [
        (2, (99,), {}, "give steps=2 descending"),
        (2, (50, 50), {}, "descending training"),
        (2, (5, -1), {}, "none below 0"),
        (2, (99, 5), {"previous": "ratio"}, "chosen timesteps land on the next"),
        (2, (99, 5), {"name": "flow_euler"}, "a flow has none"),
    ],
)
def test_timesteps_that_are_refused(
    steps: int, given: tuple[int, ...], more: dict[str, str], message: str
) -> None:
    with pytest.raises(PcmError, match=message):
        SamplerConfig(**{"steps": steps, "timesteps": given, **more})  # type: ignore[arg-type]


def test_timesteps_beyond_the_schedule_are_refused() -> None:
    with pytest.raises(PcmError, match=r"\[100, 5\]: this policy was trained with timesteps 0 to"):
        build_sampler(SCHEDULE, SamplerConfig("ddim", 2, timesteps=(100, 5)))


def test_a_row_at_its_own_level_is_what_the_denoiser_says() -> None:
    policy = tiny()
    sampler = policy.sampler(policy.config.sampler)
    cond, x, j = torch.randn(5, 6), torch.randn(5, 8, 2), torch.tensor([0, 15, 3, 7, 3])
    prefix = Prefix(torch.rand(5, 8, 2), torch.rand(5, 8, 1) < 0.3)
    found = clean_at(policy.network, x, j, cond, sampler, "epsilon", 1.0, prefix)
    denoise = policy.denoiser(cond, policy.config.sampler, prefix)
    everywhere = denoise(x.expand(16, 5, 8, 2), slice(0, 16))
    torch.testing.assert_close(found, everywhere[j, torch.arange(5)], rtol=0, atol=1e-6)


def test_the_boundary_condition_holds_whatever_the_network_says() -> None:
    x, output = torch.randn(4, 8, 2), torch.randn(4, 8, 2)
    assert torch.equal(to_clean(output, x, torch.tensor(1.0), torch.tensor(0.0), "v_prediction"), x)


@pytest.mark.parametrize(("kind", "prefix_steps"), [("huber", 0), ("l2", 0), ("huber", 4)])
@torch.no_grad()
def test_the_loss_row_by_row(kind: str, prefix_steps: int) -> None:
    """Algorithm 2 of Song et al. 2023 with one loop over rows and DDIM written out."""
    base = tiny(prefix_steps=prefix_steps)
    data = windows(base)
    objective = Consistency(base, {"steps": 4}, data, data, 12, 3, loss=kind, target_ema=0.9)
    for p in objective.student.target.parameters():
        p.add_(0.05)  # as later in a run, when copy and network differ
    found = objective.loss(objective.module, 0, Share(0, 1))

    from pcm_policy.training.batches import random_prefixes

    generator = step_generator(3, 0)
    rows = Batches(12, 12, 3)(0)
    level = torch.randint(4, (12,), generator=generator)
    noise = torch.randn(12, 8, 2, generator=generator)
    known = random_prefixes(base.config, 12, generator, base.config.prefix_steps)
    visited = [*timesteps(100, 4, "trailing").tolist(), None]
    abar = SCHEDULE.alphas_cumprod()

    def levels(i: int) -> tuple[float, float]:
        t = visited[i]
        return (1.0, 0.0) if t is None else (float(abar[t].sqrt()), float((1 - abar[t]).sqrt()))

    total = 0.0
    for i, row in enumerate(rows.tolist()):
        chunk, mask, j = data.chunk[row : row + 1], known[i : i + 1], int(level[i])
        cond = base.join(data.seen[row : row + 1], Prefix(chunk, mask))
        (alpha, sigma), (alpha_after, sigma_after) = levels(j), levels(j + 1)
        x = alpha * chunk + sigma * noise[i : i + 1]
        eps = base.network(x, torch.tensor([visited[j]]), cond)
        clean = ((x - sigma * eps) / alpha).clamp(-1, 1)
        clean = torch.where(mask, chunk, clean)
        landed = alpha_after * clean + sigma_after * (x - alpha * clean) / sigma
        target = landed
        if j < 3:
            v = objective.student.target(landed, torch.tensor([visited[j + 1]]), cond)
            target = (alpha_after * landed - sigma_after * v).clamp(-1, 1)
            target = torch.where(mask, chunk, target)
        v = objective.student.network(x, torch.tensor([visited[j]]), cond)
        off = float(((alpha * x - sigma * v - target) * ~mask).square().mean())
        total += off if kind == "l2" else (off + HUBER**2) ** 0.5 - HUBER
    assert float(found) == pytest.approx(total / 12, rel=1e-4)


def test_the_slow_copy_follows() -> None:
    student = Student(torch.nn.Linear(2, 2))
    with torch.no_grad():
        student.network.weight.add_(1.0)
    expected = 0.75 * student.target.weight + 0.25 * student.network.weight
    student.follow(0.75)
    torch.testing.assert_close(student.target.weight, expected)
    assert not student.target.weight.requires_grad


def test_what_is_refused() -> None:
    base = tiny()
    data = windows(base)
    with pytest.raises(PcmError, match=r"loss=l1, target_ema=0.95: use huber or l2"):
        Consistency(base, {}, data, data, 4, 0, loss="l1")
    with pytest.raises(PcmError, match=r"not ddpm: use sampler.name=ddim sampler.eta=0"):
        Consistency(base, {"name": "ddpm"}, data, data, 4, 0)
    euler = SamplerConfig("flow_euler", 8)
    flow = tiny(schedule=NoiseSchedule("flow"), prediction="flow_velocity", sampler=euler)
    with pytest.raises(PcmError, match="this one is a flow: use head=window"):
        Consistency(flow, {}, data, data, 4, 0)


def test_distils_to_a_policy_folder(demos: Path, tmp_path: Path) -> None:
    small = ["device=cpu", "threads=1", "train.batch=32", "train.warmup=5", "train.lr=0.003"]
    small += [f"dataset.path={demos}", "train.save_every=20", "train.log_every=10"]
    network = ["network.options.width=32", "network.options.depth=1"]
    base = cli_train.train_main(
        compose(
            "train",
            ["task=pusht", *small, *network, "train.steps=60", f"output_dir={tmp_path}/base"],
        )
    )
    words = [*small, f"policy={base}", "head=consistency", "train.steps=80"]
    folder = cli_train.distill_main(compose("distill", [*words, f"output_dir={tmp_path}/whole"]))
    lines = [json.loads(x) for x in (tmp_path / "whole/metrics.jsonl").read_text().splitlines()]
    held_out = [x["val_rmse_1"] for x in lines if "val_rmse_1" in x]
    losses = [x["loss"] for x in lines if "loss" in x]
    assert held_out[-1] < held_out[0]  # the base itself has hardly been trained
    assert np.mean(losses[-2:]) < losses[0]
    policy = DiffusionPolicy.from_pretrained(folder)
    assert policy.default_solver().label == "consistency-1"
    words = ["solver=consistency", "solver.steps=3", f"policy={folder}", "episodes=1"]
    words += ["max_steps=16", "num_envs=1", "solve_batch=1", "latency_calls=1", "device=cpu"]
    report = cli_eval.eval_main(compose("eval", [*words, f"output_dir={tmp_path}/eval"]))
    assert report["rounds"] == 3
    obs = np.full((2, 20), 256.0)
    assert policy.predict(obs).action.shape == (1, 8, 2)


def test_a_cut_run_goes_on_as_it_was(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ["device=cpu", "threads=1", "train.batch=16", "train.warmup=5", "train.save_every=10"]
    small += [f"dataset.path={demos}", "train.steps=30"]
    network = ["network.options.width=16", "network.options.depth=1"]
    base = cli_train.train_main(
        compose("train", ["task=pusht", *small, *network, f"output_dir={tmp_path}/base"])
    )
    words = [*small, f"policy={base}", "head=consistency"]
    whole = cli_train.distill_main(compose("distill", [*words, f"output_dir={tmp_path}/whole"]))
    loss = Consistency.loss

    def stop(self: Consistency, module: torch.nn.Module, step: int, share: Share) -> torch.Tensor:
        if step == 17:
            raise KeyboardInterrupt
        return loss(self, module, step, share)

    cut = [*words, f"output_dir={tmp_path}/cut"]
    with monkeypatch.context() as patch:
        patch.setattr(Consistency, "loss", stop)
        with pytest.raises(KeyboardInterrupt):
            cli_train.distill_main(compose("distill", cut))
    resumed = cli_train.distill_main(compose("distill", [*cut, "resume=true"]))
    first, second = (DiffusionPolicy.from_pretrained(p).state_dict() for p in (whole, resumed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())

"""The training loop: schedules, objectives, resuming, kills, several processes."""

import json
import re
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import certified_solver
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.step import STEPS
from pcm_policy.training.batches import Batches, step_generator
from pcm_policy.training.config import TrainConfig, learning_rate
from pcm_policy.training.replicas import average
from pcm_policy.training.sharing import Share

SMALL = [
    "task=pusht",
    "network.options.width=32",
    "network.options.depth=1",
    "device=cpu",
    "threads=1",
]


def training(demos: Path, output: Path, *more: str) -> list[str]:
    """Overrides of a small run."""
    run = ["train.steps=60", "train.batch=32", "train.save_every=10", "train.log_every=5"]
    run += ["train.warmup=10", "train.lr=0.003"]
    return [*SMALL, f"dataset.path={demos}", f"output_dir={output}", *run, *more]


def train(demos: Path, output: Path, *more: str) -> Path:
    return cli_train.train_main(compose("train", training(demos, output, *more)))


def weights(policy: Path) -> dict[str, torch.Tensor]:
    return load_file(policy / "model.safetensors")


def assert_same(one: Path, two: Path, tolerance: float = 0.0) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert (value - second[name]).abs().max() <= tolerance, name


@pytest.fixture(scope="module")
def base(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    return train(demos, tmp_path_factory.mktemp("base") / "run")


def test_every_epoch_is_a_permutation() -> None:
    rows = torch.cat([Batches(10, 4, 3)(step) for step in range(10)]).view(4, 10)
    for epoch in rows:
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(rows[0], rows[1])
    assert torch.equal(Batches(10, 4, 3)(7), Batches(10, 4, 3)(7))
    assert not torch.equal(Batches(10, 4, 3)(7), Batches(10, 4, 4)(7))


def test_step_generator_depends_on_seed_and_step_alone() -> None:
    draw = [torch.rand(4, generator=step_generator(s, i)) for s in (0, 1) for i in (0, 1)]
    assert torch.equal(draw[0], torch.rand(4, generator=step_generator(0, 0)))
    assert len({tuple(d.tolist()) for d in draw}) == 4


def test_shares_are_disjoint_and_complete() -> None:
    rows = torch.arange(12)
    parts = [Share(rank, 3)(rows) for rank in range(3)]
    assert sorted(torch.cat(parts).tolist()) == rows.tolist()


def test_learning_rate() -> None:
    config = TrainConfig(steps=100, lr=2.0, warmup=10)
    rates = [learning_rate(config, i) for i in range(100)]
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(rates[10:], 1 + np.cos(np.pi * np.arange(90) / 90))


def test_average_is_the_warmed_up_exponential_one() -> None:
    update, averaged, slow = average(0.9), [torch.zeros(3)], torch.zeros(3)
    for i in range(200):
        current = torch.full((3,), float(i % 7))
        update(averaged, [current], i)
        weight = min(0.9, (1 + i) / (10 + i))
        slow = weight * slow + (1 - weight) * current
    torch.testing.assert_close(averaged[0], slow)


def test_loss_falls_and_is_logged(base: Path) -> None:
    lines = [json.loads(x) for x in (base.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in lines if "loss" in x]
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    assert all("grad_norm" in x and "lr" in x for x in lines if "loss" in x)


def test_resumed_run_is_bitwise_the_uninterrupted_one(
    demos: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pcm_policy.training.cloning import Cloning

    class StoppedError(Exception):
        pass

    loss = Cloning.loss

    def stop(self: Cloning, module: torch.nn.Module, step: int, share: Share) -> torch.Tensor:
        if step == 37:
            raise StoppedError
        return loss(self, module, step, share)

    with monkeypatch.context() as patch:
        patch.setattr(Cloning, "loss", stop)
        with pytest.raises(StoppedError):
            train(demos, tmp_path / "run")
    assert not (tmp_path / "run/policy").exists()
    assert_same(train(demos, tmp_path / "run", "resume=true"), base)
    kept = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in kept if "loss" in x]
    assert steps == sorted(set(steps)) == list(range(5, 61, 5))


def test_what_resume_refuses(demos: Path, base: Path) -> None:
    with pytest.raises(PcmError, match=r"resume=true or choose another output_dir"):
        train(demos, base.parent)
    with pytest.raises(PcmError, match=r"lr=0.003, now 0.5: resume with the same settings"):
        train(demos, base.parent, "resume=true", "train.lr=0.5")


def test_a_loss_that_diverges_says_so(demos: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match=r"the loss is (nan|inf).*lower train.lr"):
        train(demos, tmp_path / "run", "train.lr=1e30")


@pytest.mark.slow
def test_kill_at_random_moments_ten_times(demos: Path, tmp_path: Path) -> None:
    """Kill -9; every checkpoint stays readable, the end is bitwise the uninterrupted run's."""
    more = ("train.steps=800", "train.save_every=5", "train.log_every=1")
    reference = train(demos, tmp_path / "reference", *more)
    output, rng = tmp_path / "killed", np.random.default_rng(5)
    resumed = (demos, output, *more, "resume=true")
    log = output / "metrics.jsonl"
    kills, seen = 0, []
    for _ in range(10):
        before = log.stat().st_size if log.exists() else 0
        process = get_context("fork").Process(target=train, args=resumed)
        process.start()
        # wait until it trains again, then strike after a random while
        while process.is_alive() and (not log.exists() or log.stat().st_size == before):
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0, 0.2)))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        found = sorted((output / "checkpoints").glob("step-*"))
        for folder in found:
            for file in ("model", "ema", "optimizer"):
                load_file(folder / f"{file}.safetensors")
            assert json.loads((folder / "state.json").read_text())["step"] > 0
        seen.append(int(found[-1].name[5:]) if found else 0)
    assert kills == 10
    assert seen == sorted(seen)
    assert 0 < seen[-1] < 800
    assert_same(train(*resumed), reference)


@pytest.mark.parametrize("head", ["window", "lora", "copy"])
def test_distillation(demos: Path, base: Path, tmp_path: Path, head: str) -> None:
    options = ["head.options.width=64"] if head == "window" else []
    run = ["train.steps=80", "train.batch=16", "train.save_every=10", "train.log_every=10"]
    source = [f"policy={base}", f"dataset.path={demos}", f"output_dir={tmp_path}/run"]
    flags = [f"head={head}", *options, *run, *source, "train.warmup=10", "device=cpu", "threads=1"]
    rate = "train.lr=0.0003" if head == "copy" else "train.lr=0.003"
    policy = cli_train.distill_main(compose("distill", [*flags, rate]))
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in lines if "loss" in x]
    held_out = [x for x in lines if "val_rmse_2" in x]
    assert np.mean(losses[-2:]) < losses[0]
    assert held_out[-1]["val_rmse_2"] < held_out[0]["val_rmse_2"]
    before, after = weights(base), weights(policy)
    assert all(torch.equal(after[k], v) for k, v in before.items()), "the base must stay"
    loaded = DiffusionPolicy.from_pretrained(policy)
    assert loaded.default_solver().method == "pcm"
    card = (policy / "README.md").read_text()
    assert f"| base | weights `{fingerprint(loaded.network)}` |" in card
    assert re.search(r"\| distilled in \| \d+\.\d min on cpu \|", card)
    assert "| pcm 2 (ddim-16) |" in card
    solver = certified_solver(loaded, 1e-3)
    assert (STEPS.name(type(solver.step)) == "adaptive") == (head == "window")
    assert solver.label in card


def test_training_starts_from_another_policy_and_stores_16_bits(
    demos: Path, base: Path, tmp_path: Path
) -> None:
    run = ["train.steps=1", "train.lr=1e-9", f"init={base}", "weights=float16"]
    policy = train(demos, tmp_path / "on", *run)
    stored, before = weights(policy), weights(base)
    for name, value in before.items():
        half = name.startswith("network.")
        assert stored[name].dtype == (torch.float16 if half else torch.float32)
        assert (stored[name].float() - value).abs().max() <= (2**-11) * value.abs().max(), name
    loaded = DiffusionPolicy.from_pretrained(policy)
    assert loaded.dtype == torch.float32
    head = ["head.options.width=16", "train.steps=2", "train.batch=4", "distill.pool=8"]
    flags = [*head, f"policy={policy}", f"dataset.path={demos}", f"output_dir={tmp_path}/head"]
    made = cli_train.distill_main(compose("distill", [*flags, "weights=float16", "device=cpu"]))
    assert {v.dtype for k, v in weights(made).items() if "head." in k} == {torch.float16}
    assert DiffusionPolicy.from_pretrained(made).head is not None


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (["network.options.width=16"], "init: network_options is .* in that policy"),
        (["policy.prediction=sample"], "init: prediction is 'epsilon' in that policy"),
        (["weights=int8"], "weights=int8: use float32 or float16"),
    ],
)
def test_what_training_on_refuses(
    demos: Path, base: Path, tmp_path: Path, flags: list[str], match: str
) -> None:
    with pytest.raises(PcmError, match=match):
        train(demos, tmp_path / "run", f"init={base}", *flags)


def test_trains_on_the_human_data(human_data: Path, tmp_path: Path) -> None:
    policy = train(human_data, tmp_path / "run", "train.steps=150", "train.batch=128")
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in lines if "loss" in x]
    assert losses[-1] < 0.4 * losses[0]
    loaded = DiffusionPolicy.from_pretrained(policy)
    assert 400 < loaded.obs_normalizer.high.max() < 540
    assert (policy / "observations.safetensors").exists()


def test_a_transformer_is_trained_and_solved_in_parallel(demos: Path, tmp_path: Path) -> None:
    small = ["network.options.n_layer=2", "network.options.n_emb=32", "train.steps=120"]
    words = training(demos, tmp_path / "run", "network=transformer", *small)
    folder = cli_train.train_main(compose("train", [w for w in words if w not in SMALL[1:3]]))
    lines = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in lines if "loss" in x]
    assert losses[-1] < 0.7 * losses[0]
    policy = DiffusionPolicy.from_pretrained(folder)
    assert policy.config.network_options["obs_steps"] == policy.config.obs_steps
    assert policy.held_out is not None
    sampler = policy.config.sampler
    solvers = [Solver.of(m, sampler, tolerance=t) for m, t in METHODS]  # type: ignore[arg-type]
    noise = policy.draw_noise(4, solvers[0].sampler)
    exact, found = (policy.solve(policy.held_out[:4], solver, noise).sample for solver in solvers)
    assert float((found - exact).abs().max()) < 1e-4


METHODS = [("sequential", None), ("picard", 1e-5)]

"""The benchmark and the report on a small policy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pcm_policy.adopt.lerobot_sampling import common_sampler
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json
from pcm_policy.measure.bench import Bench, run_bench, time_predictions
from pcm_policy.measure.bench_tables import bench_table
from pcm_policy.measure.page import embed, page
from pcm_policy.measure.pictures import bench_picture
from pcm_policy.measure.rows import default_rows, sequential
from pcm_policy.measure.tune import candidate_solvers
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.training.headed import with_head
from tests.builders import PLAIN_HEAD


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    torch.manual_seed(0)
    config = PolicyConfig(
        3,
        2,
        horizon=8,
        action_steps=4,
        network_options={"width": 32, "depth": 1},
        schedule=NoiseSchedule(train_steps=40),
        sampler=SamplerConfig(steps=8),
    )
    base = DiffusionPolicy(config)
    for normalizer in (base.obs_normalizer, base.action_normalizer):
        normalizer.low.fill_(-1)
        normalizer.high.fill_(1)
    small = {"name": "window", "options": {"width": 32, "depth": 1, **PLAIN_HEAD}}
    return with_head(base, small, {"name": None}, 0)


@pytest.fixture(scope="module")
def bench(policy: DiffusionPolicy) -> Bench:
    obs = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(1))
    return run_bench(policy, obs, observations_used=4, calls=3)


@pytest.fixture(scope="module")
def report(bench: Bench) -> dict:
    return bench.to_json()


def test_rows(policy: DiffusionPolicy, report: dict) -> None:
    rows = {row["solver"]: row for row in report["rows"]}
    assert len(rows) == len(default_rows(policy, 1e-3)) == len(report["rows"])
    assert rows["ddpm-40"]["rounds"] == 40
    assert rows["ddpm-40"]["max_abs_error"] == 0
    assert rows["ddpm-40"]["speedup"] == 1
    for row in report["rows"]:
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
        assert row["mean_abs_error"] <= row["max_abs_error"]
        if "tol" in row["solver"]:
            assert row["max_abs_error"] < 4e-3
    assert {"picard tol 0.001 (ddim-32)", "paradigms tol 0.001 (ddpm-40)", "ddim-2"} <= set(rows)
    assert {"pcm 1 (ddim-8)", "pcm 2 (ddim-8)", "picard 2 (ddim-8)"} <= set(rows)


def test_rounds_to_error_agree_with_the_traces(report: dict) -> None:
    for trace in report["rounds_to_error"]:
        worst = trace["worst_rounds"]
        assert all(e < report["error"] for e in trace["worst_error_by_round"][worst - 1 :])
        assert worst == 1 or trace["worst_error_by_round"][worst - 2] >= report["error"]
        assert trace["mean_rounds"] <= worst


def test_report_can_be_written(bench: Bench, report: dict, tmp_path: Path) -> None:
    assert json.loads(to_json(report)) == report
    bench_picture(bench, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "ddim-8" in bench_table(bench)
    text = page("A <title>", [("Picture", embed(tmp_path / "bench.png"))])
    assert "A &lt;title&gt;" in text
    assert "base64" in text
    assert [p.name for p in tmp_path.iterdir()] == ["bench.png"]


def test_timing_needs_a_call(policy: DiffusionPolicy) -> None:
    with pytest.raises(PcmError, match="calls=0"):
        time_predictions(
            policy, [policy.solver({"method": "sequential"})], np.zeros((1, 2, 3), np.float32), 0
        )


def test_chosen_methods(policy: DiffusionPolicy) -> None:
    rows = default_rows(policy, 1e-3, ["picard"])
    assert {row.method for row in rows} == {"sequential", "picard"}
    with pytest.raises(PcmError, match="methods: unknown solver 'picrd'"):
        default_rows(policy, 1e-3, ["picrd"])


MINE = """
from dataclasses import dataclass, replace
import torch
from pcm_policy.solvers import Picard, Step

@dataclass(frozen=True)
class Damped(Step):
    share: float = 0.5
    inner: Step = Picard()

    def init(self, s):
        return self.inner.init(s)

    def step(self, s, x, memory):
        r, memory = self.inner.step(s, x, memory)
        return replace(r, X=torch.lerp(x.X, r.X, self.share)), memory
"""


def test_a_solver_of_ones_own_is_a_row_and_a_candidate(
    policy: DiffusionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name alone: nobody lists the solvers that are compared."""
    (tmp_path / "damped_row.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "damped_row:Damped"
    obs = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(1))
    bench = run_bench(policy, obs, observations_used=2, calls=1, methods=[name])
    own = [row for row in bench.rows if row.method == name]
    assert {row.reference.label for row in own} == {"ddpm-40", "ddim-32", "ddim-16", "ddim-8"}
    assert all(bench.errors[row].max_abs_error < 1e-2 for row in own)
    assert [t.row for t in bench.traces] == own
    bench_picture(bench, tmp_path / "bench.png")
    assert name in bench_table(bench)
    assert name in {solver.method for solver in candidate_solvers(policy, methods=[name])}


def test_a_policy_that_lerobot_cannot_run_has_no_row_of_it(policy: DiffusionPolicy) -> None:
    obs = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(1))
    bench = run_bench(
        policy, obs, observations_used=2, calls=1, methods=["pcm"], lerobot="/no/python"
    )
    assert {row.package for row in bench.rows} == {"pcm_policy"}
    left_out = "lerobot ddpm-40 is left out: LeRobot's diffusion policy is a U-Net, not mlp"
    assert left_out in bench_table(bench)


CASES = [
    (SamplerConfig("ddpm", 20, temperature=0.1), None),
    (SamplerConfig("ddpm", 20), "window"),
    (SamplerConfig("ddim", 6, eta=1.0, temperature=0.3), "window"),
    (SamplerConfig("ddim", 3, timesteps=(17, 10, 2)), "lora"),
    (SamplerConfig("dpmpp_2m", 6), None),
    (SamplerConfig("dpmpp_3m", 6), "lora"),
    (SamplerConfig("flow_euler", 6), "window"),
    (SamplerConfig("flow_2m", 6), None),
    (SamplerConfig("consistency", 2), None),
]


@pytest.mark.parametrize(
    ("sampler", "head"), CASES, ids=[f"{sampler.label} {head}" for sampler, head in CASES]
)
def test_every_policy_is_compared_and_drawn(
    sampler: SamplerConfig, head: str | None, tmp_path: Path
) -> None:
    """Whatever a policy samples with: rows are told apart by what they are, not by a label."""
    torch.manual_seed(0)
    flow = sampler.name in ("flow_euler", "flow_2m")
    config = PolicyConfig(
        3,
        2,
        horizon=8,
        action_steps=4,
        prediction="flow_velocity" if flow else "epsilon",
        network_options={"width": 16, "depth": 1},
        schedule=NoiseSchedule("flow" if flow else "squaredcos_cap_v2", train_steps=20),
        sampler=sampler,
    )
    policy = DiffusionPolicy(config)
    for normalizer in (policy.obs_normalizer, policy.action_normalizer):
        normalizer.low.fill_(-1)
        normalizer.high.fill_(1)
    if head is not None:
        options = {"width": 16, "depth": 1, **PLAIN_HEAD} if head == "window" else {}
        policy = with_head(policy, {"name": head, "options": options}, {"name": None}, 0)
    obs = torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(1))
    bench = run_bench(policy, obs, observations_used=2, calls=1, methods=["picard", "pcm"])
    for row in bench.rows:
        assert bench.speedup(sequential(row.reference), sequential(row.reference)) == 1
    rows = bench.to_json()["rows"]
    assert len({to_json([row["settings"], row["reference"]]) for row in rows}) == len(rows)
    assert len(rows) == len(bench.rows) > 8
    bench_picture(bench, tmp_path / "bench.png")
    assert bench_table(bench)


@pytest.mark.slow
def test_lerobot_takes_its_turns(lerobot_python: str) -> None:
    torch.manual_seed(0)
    options = {"down_dims": [16, 32], "step_embed_dim": 32}
    config = PolicyConfig(
        3, 2, network="unet1d", network_options=options, sampler=common_sampler("ddim", 16)
    )
    unet = DiffusionPolicy(config)
    for normalizer in (unet.obs_normalizer, unet.action_normalizer):
        normalizer.low.fill_(-1)
        normalizer.high.fill_(1)
    obs = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(1))
    rows = {"observations_used": 4, "calls": 3, "methods": ["picard"]}
    bench = run_bench(unet, obs, lerobot=lerobot_python, **rows)
    report = bench.to_json()
    names = [(row["package"], row["solver"]) for row in report["rows"]]
    assert len(set(names)) == len(names)
    for name in ("ddpm-100", "ddim-32", "ddim-16"):
        place = names.index(("pcm_policy", name))
        assert names[place + 1] == ("lerobot", name)
        row = report["rows"][place + 1]
        assert row["max_abs_error"] < 1e-4
        assert row["speedup_over_lerobot"] == 1
        assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert all("speedup_over_lerobot" in row for row in report["rows"])
    assert "vs LeRobot" in bench_table(bench)
    assert json.loads(to_json(report)) == report
    wrong = "/no/python"
    with pytest.raises(PcmError, match="no Python of LeRobot's environment"):
        run_bench(unet, obs, observations_used=4, calls=3, methods=[], lerobot=wrong)

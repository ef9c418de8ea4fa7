"""The ablation: rows are trained once, measured against the base, and known by their command."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.study import ablation
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import chunk_error, solved
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import Solver
from pcm_policy.training.headed import with_head
from tests.builders import PLAIN_HEAD

SMALL = ["device=cpu", "threads=1", "train.batch=8", "train.warmup=2"]
DISTILL = [*SMALL, "sampler.steps=4", "distill.pool=16", "distill.reuse=2"]


@pytest.fixture(scope="module")
def base(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [
        "task=pusht",
        "network.options.width=16",
        "network.options.depth=1",
        f"dataset.path={demos}",
    ]
    words += [*SMALL, "train.steps=5", f"output_dir={tmp_path_factory.mktemp('base')}"]
    return cli_train.train_main(compose("train", words))


def test_every_row_is_a_command_that_exists(base: Path, demos: Path) -> None:
    for overrides in ablation.ROWS.values():
        words = [f"policy={base}", f"dataset.path={demos}", "output_dir=x", *overrides]
        compose("distill", words)


@pytest.mark.usefixtures("brief")
def test_rows_are_trained_once(demos: Path, base: Path, tmp_path: Path) -> None:
    words = ["--policy", str(base), "--dataset", str(demos), "--output", str(tmp_path)]
    words += ["--steps", "2", *DISTILL]
    ablation.main([*words, "--only", "window,paper-lora"])
    first = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    (tmp_path / "runs/window/policy").rename(tmp_path / "moved")
    ablation.main([*words, "--only", "window,consistency"])
    rows = json.loads((tmp_path / "ablation.json").read_text())["rows"]
    assert set(rows) == {"window", "paper-lora", "consistency"}
    assert rows["window"] == first["window"]
    assert not (tmp_path / "runs/window/policy").exists()
    assert rows["paper-lora"]["command"].endswith(" ".join(ablation.ROWS["paper-lora"]))
    for kind in ("rmse", "perturbed", "visited"):
        assert set(rows["consistency"][kind]) == set(rows["window"][kind]) == {"1", "2", "3"}
    assert rows["consistency"]["warm"] is None
    assert "| paper-lora |" in (tmp_path / "ablation.md").read_text()


def test_an_untrained_head_measures_as_plain_picard(base: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(base)
    head = {"name": "window", "options": {"width": 8, **PLAIN_HEAD}}
    untrained = with_head(policy, head, {"steps": 6}, seed=0)
    obs = policy.held_out
    assert obs is not None
    found = ablation.measure(untrained, policy, obs, obs)
    assert found["visited"] == found["rmse"]
    assert untrained.config.head is not None
    sampler = untrained.config.head.sampler
    exact = solved(policy, Solver.of("sequential", sampler), obs)
    for r in (1, 2, 3):
        plain = solved(policy, Solver.of("picard", sampler, rounds=r), obs)
        assert found["rmse"][str(r)] == pytest.approx(chunk_error(plain, exact).rmse, abs=1e-6)
    assert found["ramp"] == pytest.approx(found["rmse"]["3"], abs=1e-6)
    assert torch.isfinite(torch.tensor(found["warm"]))


def test_what_is_refused() -> None:
    with pytest.raises(PcmError, match="'windwo' is unknown or missing"):
        ablation.main(["--dataset", "d", "--output", "o", "--only", "windwo"])
    with pytest.raises(PcmError, match="'--stesp' is unknown or missing"):
        ablation.main(["--dataset", "d", "--output", "o", "--stesp", "3"])

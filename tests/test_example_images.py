"""``python -m examples.images``: its parts, a run that teaches nothing, and what it measured."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.images import measure
from examples.images.__main__ import QUICK, main, run, tables
from examples.images.digits import frechet
from examples.images.paradigms import paradigms
from pcm_policy.envs.vision_operators import declare_vision_operators
from tests.imaging import drawn, loop, wobble

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks/results/images.json"


def test_the_frechet_distance_of_gaussians() -> None:
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double()
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + torch.tensor([1.0, 2.0, 0.0])) == pytest.approx(5)
    spread = x.std(dim=0).square().sum()
    assert frechet(x - x.mean(dim=0), 3 * (x - x.mean(dim=0))) == pytest.approx(4 * float(spread))


@pytest.mark.parametrize(("kind", "steps"), [("DDIM", 6), ("DDPM", 8)])
def test_diffusers_parallel_loop_ends_at_its_sequential_images(kind: str, steps: int) -> None:
    declare_vision_operators()
    import diffusers

    noise = drawn(2, steps)
    theirs = loop(getattr(diffusers, f"{kind}Scheduler")(), steps, wobble, noise.initial)
    parallel: Any = getattr(diffusers, f"{kind}ParallelScheduler")()
    images, rounds = paradigms(parallel, steps, wobble, noise, 1e-6)
    torch.testing.assert_close(images, theirs, atol=1e-4, rtol=0)
    assert rounds <= steps


def test_rounds_are_counted_from_where_they_stay() -> None:
    exact = torch.zeros(2, 1)
    images = [torch.tensor([[v], [0.0]]) for v in (1.0, 0.0, 1.0, 0.0)]
    assert measure.rounds_to(images, exact, 0.5) == (4 + 1) / 2
    trace = [{"frechet": v} for v in (0.1, 9.0, 1.04, 1.0)]
    assert measure.equal_rounds(trace, 1.0) == 3
    assert measure.equal_rounds(trace[:2], 1.0) is None


def test_every_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="pip install 'pcm_policy[images]'")
    report = run(QUICK, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} >= {"index.html", "result.json", "images.png"}
    assert json.loads((tmp_path / "result.json").read_text())["rounds"].keys() == (
        report["rounds"].keys()
    )
    assert {r["solver"] for r in report["solved"]} >= {"sequential", *measure.STEPS}
    assert all(r["error"] < 1e-4 for r in report["solved"] if "Parallel" not in r["solver"])
    assert len(tables(report)) == 2
    monkeypatch.setattr("sys.argv", ["images", "--output", str(tmp_path)])
    with pytest.raises(SystemExit):  # it is not empty: nothing is lost
        main()


def test_a_file_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x").touch()
    monkeypatch.setattr("sys.argv", ["images", "--output", str(tmp_path / "x")])
    with pytest.raises(SystemExit):
        main()
    assert "is a file: give a new folder" in capsys.readouterr().err


def test_what_was_measured() -> None:
    report = json.loads(RESULT.read_text())
    solved = [r for r in report["solved"] if "Parallel" not in r["solver"]]
    assert {r["sampler"] for r in solved} == {"ddim-50", "ddpm-100", "flow-50"}
    assert max(r["error"] for r in solved) <= measure.EXACT
    ours = [r for r in solved if r["solver"] in ("picard", "anderson", "quasi-newton")]
    assert min(r["fewer"] for r in ours) >= 2.71
    equal = report["equal"]
    best = min(equal[name] or 99 for name in report["switching"])
    assert equal["picard"] / best >= 1.77
    for row in report["switching"].values():
        assert row["alone"] > 10 * measure.EXACT
        assert row["switched"] <= measure.EXACT

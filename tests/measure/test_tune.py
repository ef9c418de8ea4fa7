"""The tuner: what it chooses is what the measurements say, and its files are loaded as they are."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.cli.bench import evaluation_line, tune_main
from pcm_policy.cli.compose import compose
from pcm_policy.cli.eval import eval_main
from pcm_policy.cli.main import run_command
from pcm_policy.errors import PcmError
from pcm_policy.measure.candidates import (
    Candidate,
    candidate_solvers,
    reference_sampler,
    searched_samplers,
)
from pcm_policy.measure.exactness import solved
from pcm_policy.measure.few_steps import rmse
from pcm_policy.measure.targets import Deadline, Error, ScoreWithin, Target, target_of
from pcm_policy.measure.tune import call_costs
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver, flat


def candidate(steps: int, rmse: float, p50: float, p95: float) -> Candidate:
    solver = Solver.of("sequential", SamplerConfig("ddim", steps))
    times = {"p50": p50, "p95": p95, "p99": p95, "max": p95}
    return Candidate(solver, RuntimeConfig(), rmse, steps, steps, times)


FAST, MIDDLE, SLOW = (candidate(2, 0.2, 1, 2), candidate(4, 0.05, 2, 3), candidate(16, 0.0, 8, 9))
ALL = [SLOW, FAST, MIDDLE]
NEAR, SLOWER = candidate(6, 0.2, 2.5, 3), candidate(8, 0.2, 10, 11)


def test_a_deadline_gets_the_smallest_error_that_keeps_it() -> None:
    assert Deadline(3.0).choose(ALL)[0] is MIDDLE
    assert Deadline(2.5).choose(ALL)[0] is FAST
    assert Deadline(9.0).choose(ALL)[0] is SLOW
    with pytest.raises(PcmError, match=r"the fastest, ddim-2.* takes 2\.00 ms"):
        Deadline(1.0).choose(ALL)


def test_an_error_gets_the_fastest_that_reaches_it() -> None:
    assert Error(0.5).choose(ALL)[0] is FAST
    assert Error(0.1).choose(ALL)[0] is MIDDLE
    assert Error(1e-9).choose(ALL)[0] is SLOW


def test_a_score_gets_the_fastest_that_is_shown_to_be_equal() -> None:
    differences = {2: (-0.2, -0.3, -0.1), 4: (0.0, -0.04, 0.04), 16: (0.0, 0.0, 0.0)}

    def closeness(solver: Solver) -> tuple[float, float, float]:
        return differences[solver.sampler.steps]

    best, why, known = ScoreWithin(0.05).choose(ALL, closeness)
    assert best.solver is MIDDLE.solver
    assert "1 faster ones" in why
    assert known[ALL.index(FAST)].score_difference == differences[2]
    assert ScoreWithin(0.03).choose(ALL, closeness)[0].solver is SLOW.solver
    unsure = {2: (0.0, -1.0, 1.0), 4: (0.0, -1.0, 1.0), 16: (0.0, -1.0, 1.0)}
    with pytest.raises(PcmError, match="use more episodes"):
        ScoreWithin(0.03).choose(ALL, lambda s: unsure[s.sampler.steps])


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        (Error(0.3), [FAST, NEAR, MIDDLE]),  # at most three times the fastest
        (Error(0.1), [MIDDLE]),
        (Deadline(3.0), [SLOW]),  # MIDDLE keeps it already, and has a larger error
        (Deadline(2.5), [MIDDLE]),  # SLOW, three times faster, takes 2.67
        (ScoreWithin(0.1), [SLOW, FAST, NEAR, MIDDLE]),
    ],
)
def test_what_cannot_win_in_another_runtime_is_not_tried_there(
    target: Target, wanted: list[Candidate]
) -> None:
    every = [SLOW, FAST, MIDDLE, NEAR, SLOWER]
    found = [one for one in every if target.hopeful(one, every)]
    assert sorted(found, key=every.index) == sorted(wanted, key=every.index)


def test_what_a_runtime_reaches_ends_the_search_in_it() -> None:
    reached = candidate(2, 0.2, 0.3, 0.4)
    assert Error(0.3).hopeful(NEAR, [FAST, NEAR])
    assert not Error(0.3).hopeful(NEAR, [FAST, NEAR, reached])  # 2.5 by 3 is more than 0.3


@pytest.mark.parametrize("given", [{}, {"error": 0.1, "deadline_ms": 1.0}, {"error": -1.0}])
def test_a_target_is_exactly_one(given: dict[str, float]) -> None:
    with pytest.raises(PcmError, match="exactly one"):
        target_of(**given)


def test_candidates_are_distinct_and_costs_are_measured() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    solvers = candidate_solvers(policy)
    assert len(set(solvers)) == len(solvers)
    assert {s.method for s in solvers} >= {"sequential", "picard", "coarse", "newton", "pcm"}
    costs = call_costs(policy, 6, calls=3)
    assert list(costs) == ["1", "2", "4", "6"]
    assert min(costs.values()) > 0


def test_searched_timesteps_are_closer_than_even_ones() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    obs = held_out_observations("released/pusht_mlp")
    (found,) = searched_samplers(policy, [2], obs[:32], seed=1)
    assert found.timesteps is not None
    assert len(found.timesteps) == found.steps == 2
    others = obs[128:192]
    exact = solved(policy, Solver.of("sequential", reference_sampler(policy)), others, 7).sample
    error = float(rmse(policy, found, others, exact, 7).mean())
    for spacing in ("trailing", "leading", "linspace"):
        even = rmse(policy, SamplerConfig("ddim", 2, spacing), others, exact, 7)  # type: ignore[arg-type]
        assert error < 0.8 * float(even.mean())
    assert Solver.of("sequential", found) in candidate_solvers(policy, [found])


def test_flat_settings_give_the_solver_back() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    short = SamplerConfig("ddim", 2, timesteps=(70, 10))
    for solver in candidate_solvers(policy, [short]):
        assert policy.solver(flat(solver)) == solver
    timed = Solver.of("picard", reference_sampler(policy), rounds=4, deadline_ms=3.0)
    assert policy.solver(flat(timed)) == timed


@pytest.mark.usefixtures("brief")
def test_the_chosen_config_is_loaded_by_the_evaluator(tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    chosen = "policy=released/pusht_mlp"
    overrides = [
        chosen,
        "error=0.05",
        "search=[1]",
        "modes=[eager]",
        "calls=2",
        "observations=4",
        f"output_dir={out}",
    ]
    report = tune_main(compose("bench tune", overrides))
    assert json.loads((out / "tune.json").read_text()) == report
    more = [f"hydra.searchpath=[file://{out}]", "solver=tuned", "runtime=tuned"]
    config = compose(
        "eval",
        [
            *more,
            chosen,
            "episodes=1",
            "max_steps=8",
            "num_envs=1",
            "solve_batch=1",
            "latency_calls=1",
            f"output_dir={tmp_path / 'eval'}",
        ],
    )
    label = eval_main(config)["solver"]["label"]
    assert report["chosen"].startswith(label)


TASKS = [
    ["task=pusht"],
    ["task=lift", "task.control_hz=50"],
    ["task=lift_image", "task.env_kwargs.camera_size=64"],
    ["task=metaworld/pick-place", "task.control_hz=5"],
    ["task=pusht", "policy='a folder/it (1)'"],
    [],
]


@pytest.mark.parametrize("given", TASKS, ids=" ".join)
def test_the_printed_line_is_the_evaluation_as_it_is_typed(
    given: list[str], tmp_path: Path
) -> None:
    """Same policy and task, whatever was said of them, through a shell and back."""
    out = tmp_path / "a tuned (one)"
    for group, text in (("solver", "method: picard\nrounds: 3\n"), ("runtime", "mode: onnx\n")):
        (out / group).mkdir(parents=True)
        (out / group / "tuned.yaml").write_text(text)
    wanted = compose("bench tune", [*given, "error=0.1", f"output_dir='{out}'"])
    program, *words = shlex.split(evaluation_line(wanted, out))
    found: list[Any] = []
    run_command("eval", found.append, words)
    assert program == "pcm-eval"
    assert found[0].task == wanted.task
    assert found[0].policy == wanted.policy
    assert (found[0].solver["method"], found[0].solver["rounds"]) == ("picard", 3)
    assert found[0].runtime.mode == "onnx"
    assert Path(found[0].output_dir) == out / "eval"

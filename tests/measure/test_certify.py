"""Factors of certificates: the bound holds, the file is checked, and what it says is used."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from pcm_policy import DiffusionPolicy
from pcm_policy.cli.certify import certify_main
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.measure import certify
from pcm_policy.measure.certify import LADDER, bounding, confidence_of, plan_for, scored
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.folder import CERTIFICATES, save_policy
from pcm_policy.solvers.certificate import UNCALIBRATED, Certificate, Certificates
from pcm_policy.solvers.stops import SAFETY
from tests.policy.test_checkpoint import make

DRAWS: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "heavy": lambda rng, n: 1 / rng.uniform(size=n),
    "light": lambda rng, n: rng.exponential(size=n),
    "ties": lambda rng, n: rng.choice(LADDER[:5], size=n, p=[0.9, 0.05, 0.03, 0.015, 0.005]),
}


def share_at_most(kind: str, bound: float) -> float:
    """Return the share of new scores that is at most a bound."""
    if kind == "heavy":
        return 1 - 1 / bound
    if kind == "light":
        return 1 - math.exp(-bound)
    shares = np.cumsum([0.9, 0.05, 0.03, 0.015, 0.005])
    return float(shares[np.searchsorted(LADDER[:5], bound)])


@pytest.mark.parametrize("kind", list(DRAWS))
@pytest.mark.parametrize(("rows", "wanted"), [(20, 0.9), (29, 0.9), (150, 0.9), (40, 0.99)])
def test_the_coverage_holds_at_the_confidence(kind: str, rows: int, wanted: float) -> None:
    """Of 400 calibrations at most 5 % may miss the coverage that they state."""
    rng, missed = np.random.default_rng(rows), 0
    for _ in range(400):
        bound, coverage = bounding(DRAWS[kind](rng, rows).tolist(), wanted)
        assert coverage <= wanted
        missed += share_at_most(kind, bound) < coverage
    assert missed / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


@given(st.integers(1, 400), st.integers(1, 6), st.floats(0.5, 0.999))
def test_confidence_is_a_binomial_tail(rows: int, rank: int, coverage: float) -> None:
    wanted = binom.sf(rank - 1, rows, 1 - coverage)
    assert confidence_of(rows, rank, coverage) == pytest.approx(wanted, abs=1e-9)


@given(st.lists(st.floats(1, 100), min_size=1, max_size=200), st.floats(0.5, 0.99))
def test_few_rows_never_claim_more_than_they_allow(scores: list[float], coverage: float) -> None:
    bound, stated = bounding(scores, coverage)
    rank = 1 + sum(score > bound for score in scores)
    assert bound in scores
    assert stated <= coverage
    assert confidence_of(len(scores), rank, stated) >= 0.95


def test_the_numbers_that_are_published() -> None:
    """2,995 rows are the fewest for 99.9 %, and 4,742 let the largest go."""
    assert bounding([4.0] * 2994 + [9.0]) == (9.0, 0.999)
    assert bounding([4.0] * 2993 + [9.0])[1] < 0.999
    assert bounding([4.0] * 4741 + [9.0]) == (4.0, 0.999)
    assert bounding([4.0] * 4740 + [9.0]) == (9.0, 0.999)


@pytest.mark.parametrize("scores", [[], [math.nan], [4.0, math.inf]])
def test_scores_that_are_none_are_refused(scores: list[float]) -> None:
    with pytest.raises(PcmError, match="finite scores"):
        bounding(scores)


def entry(policy: DiffusionPolicy, **values: Any) -> Certificate:
    usual = Certificate(
        sampler=policy.config.sampler,
        precision="float32",
        factor=9.8,
        coverage=0.999,
        confidence=0.95,
        rows=3000,
        observations=256,
        solvers=("picard", "anderson"),
        tolerances=(1e-2, 1e-3),
    )
    return replace(usual, **values)


def calibrated(policy: DiffusionPolicy, **values: Any) -> DiffusionPolicy:
    policy.certificates = Certificates(fingerprint(policy), (entry(policy, **values),))
    return policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(calibrated(make("window")), tmp_path / "policy", observations=torch.rand(5, 2, 3))
    return tmp_path / "policy"


def test_a_measured_factor_is_used_and_kept(folder: Path, tmp_path: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(folder)
    solver = policy.solver({"method": "picard", "tolerance": 1e-3})
    assert solver.stop.safety == 9.8
    assert policy.trust(solver) == "99.9 % at 95 % confidence"
    policy.save_pretrained(tmp_path / "again")
    assert DiffusionPolicy.from_pretrained(tmp_path / "again").certificates == policy.certificates


def test_a_factor_of_ones_own_wins(folder: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(folder)
    hasty, careful = (
        policy.solver({"method": "picard", "tolerance": 1e-3, "safety": s}) for s in (2.0, 20.0)
    )
    assert (hasty.stop.safety, careful.stop.safety) == (2.0, 20.0)
    assert policy.trust(hasty) == UNCALIBRATED
    assert policy.trust(careful) != UNCALIBRATED


@pytest.mark.parametrize(
    ("settings", "safety"),
    [
        ({"method": "picard", "steps": 8}, SAFETY),  # another sampler
        ({"method": "picard", "temperature": 0.5}, SAFETY),
        ({"method": "picard", "tolerance": 1e-5}, 9.8),  # a tolerance that was not tried
        ({"method": "coarse"}, 9.8),  # a step that was not tried
        ({"method": "paradigms"}, 1.0),  # whose residual is another
    ],
)
def test_what_was_not_measured_is_uncalibrated(settings: dict[str, Any], safety: float) -> None:
    policy = calibrated(make("window"))
    solver = policy.solver({"tolerance": 1e-3} | settings)
    assert solver.stop.safety == safety
    assert policy.trust(solver) == UNCALIBRATED


def test_another_precision_is_uncalibrated() -> None:
    from pcm_policy.runtime.config import RuntimeConfig

    policy = calibrated(make("window"))
    for config in (RuntimeConfig(precision="bf16"), RuntimeConfig(tf32=True)):
        policy.use(config)
        assert policy.calibrated(policy.config.sampler) == ()
    policy.use(RuntimeConfig())
    assert len(policy.calibrated(policy.config.sampler)) == 1


def test_a_step_is_measured_with_the_steps_that_it_wraps() -> None:
    policy = calibrated(make("window"), solvers=("pcm",))
    head = policy.solver({"method": "pcm", "tolerance": 1e-3})
    assert policy.trust(head) != UNCALIBRATED
    other = policy.solver({"method": "pcm", "then": "picard", "tolerance": 1e-3})
    assert policy.trust(other) == UNCALIBRATED


def test_a_small_factor_is_for_measured_steps_alone() -> None:
    policy = calibrated(make("window"), factor=1.5)
    found = [
        policy.solver({"method": m, "tolerance": 1e-3}).stop.safety for m in ("picard", "coarse")
    ]
    assert found == [1.5, SAFETY]


def test_a_step_with_a_factor_of_its_own() -> None:
    """Of several that fit a step the largest counts; Anderson's rounds are no Picard rounds."""
    policy = calibrated(make("window"), factor=5.0)
    assert policy.certificates is not None
    alone = entry(policy, factor=7.8, solvers=("picard",), coverage=0.99)
    policy.certificates = policy.certificates.with_entry(alone)
    assert len(policy.certificates.entries) == 2
    solvers = [policy.solver({"method": m, "tolerance": 1e-3}) for m in ("picard", "anderson")]
    assert [solver.stop.safety for solver in solvers] == [7.8, 5.0]
    assert [policy.trust(s)[:4] for s in solvers] == ["99 %", "99.9"]


def test_factors_of_other_weights_are_not_used(folder: Path) -> None:
    other = make("window")
    with torch.no_grad():
        next(other.network.parameters()).add_(0.1)
    assert other.config.head is not None
    other.config = replace(
        other.config, head=replace(other.config.head, base=fingerprint(other.network))
    )
    save_policy(other, folder.with_name("other"))
    shutil.copy(folder / CERTIFICATES, folder.with_name("other"))
    with pytest.warns(UserWarning, match="not used, certificates are uncalibrated"):
        found = DiffusionPolicy.from_pretrained(folder.with_name("other"))
    assert found.certificates is None


def test_weights_loaded_later_have_no_factors() -> None:
    policy = calibrated(make("window"))
    policy.load_state_dict(make("window").state_dict())
    assert policy.certificates is None


BAD = st.one_of(
    st.tuples(st.just("factor"), st.sampled_from([0.5, -1.0, math.nan, math.inf, "4", None, True])),
    st.tuples(
        st.sampled_from(["coverage", "confidence"]),
        st.sampled_from([0, 1, 1.5, -0.1, math.nan, "0.9", None]),
    ),
    st.tuples(st.sampled_from(["rows", "observations"]), st.sampled_from([0, -1, 1.5, "1"])),
    st.tuples(st.just("observations"), st.just(4000)),
    st.tuples(st.just("precision"), st.sampled_from(["float64", "", 1, None])),
    st.tuples(st.just("solvers"), st.sampled_from([[], "picard", [1], None])),
    st.tuples(st.just("tolerances"), st.sampled_from([[], [0], [-1], [math.nan], ["a"], 1e-3])),
    st.tuples(st.just("solves"), st.sampled_from(["some", 1])),
    st.tuples(st.just("false_at_usual"), st.sampled_from([-1, 4000, 0.5])),
    st.tuples(st.just("sampler"), st.sampled_from([None, 1, {"name": "none"}, {"a": 1}])),
    st.tuples(st.just("unknown"), st.just(1)),
)


@settings(max_examples=60)
@given(bad=BAD)
def test_a_damaged_entry_is_named(bad: tuple[str, Any]) -> None:
    name, value = bad
    good = Certificates("x", (entry(make("window")),)).to_json()
    assert Certificates.from_json(good).to_json() == good
    good["entries"][0][name] = value
    with pytest.raises(PcmError, match=r"entries\[0\]") as error:
        Certificates.from_json(good)
    assert name.split(".")[0] in str(error.value) or name == "sampler"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"weights": 1}', '{"weights": "x", "entries": [{}]}', "NaN"]
)
def test_a_damaged_file_is_refused_in_one_line(folder: Path, text: str) -> None:
    (folder / CERTIFICATES).write_text(text)
    with pytest.raises(PcmError) as error:
        DiffusionPolicy.from_pretrained(folder)
    assert CERTIFICATES in str(error.value)
    assert "\n" not in str(error.value)


def words(folder: Path, output: Path, *more: str) -> list[str]:
    given = [f"policy='{folder}'", f"output_dir='{output}'", "batch=8", "rows=24", "coverage=0.8"]
    return [*given, "solver.sampler=ddim", "solver.steps=4", "device=cpu", *more]


def test_the_command_writes_what_later_solves_use(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = certify_main(compose("bench certify", words(folder, tmp_path / "out")))
    assert (made.rows, made.observations, made.coverage) == (24, 5, 0.8)
    assert "covers 80 % at 95 % confidence" in capsys.readouterr().out
    policy = DiffusionPolicy.from_pretrained(folder)
    solver = policy.solver({"method": "anderson", "tolerance": 1e-2, "steps": 4})
    assert policy.trust(solver) == "80 % at 95 % confidence"
    assert len(policy.certificates.entries if policy.certificates else ()) == 2


def test_a_run_that_was_cut_off_goes_on(folder: Path, tmp_path: Path) -> None:
    whole, cut = (
        words(folder, tmp_path / name, "solves=one", "solvers=[picard]")
        for name in ("whole", "cut")
    )
    certify_main(compose("bench certify", whole))
    certify_main(compose("bench certify", [*cut, "rows=12"]))
    with pytest.raises(PcmError, match="overwrite=true"):
        certify_main(compose("bench certify", cut))
    certify_main(compose("bench certify", [*cut, "resume=true"]))
    first, second = (
        json.loads((tmp_path / name / "certify.json").read_text()) for name in ("whole", "cut")
    )
    assert first["scores"] == second["scores"]
    with pytest.raises(PcmError, match="of other settings"):
        certify_main(compose("bench certify", [*cut, "resume=true", "seed=1"]))


def test_every_step_and_tolerance_gets_rows(folder: Path, tmp_path: Path) -> None:
    """With one solve a row, so few rows would state steps that nothing was solved with."""
    with pytest.raises(PcmError, match=r"rows=24: .* give rows=73 or more"):
        certify_main(compose("bench certify", words(folder, tmp_path, "solves=one")))


def test_a_limit_of_rounds_is_no_setting_of_a_sampler(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match=r"solver.rounds is no setting of a sampler"):
        certify_main(compose("bench certify", words(folder, tmp_path, "solver.rounds=2")))


def test_a_row_scores_the_first_factor_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger factor is tried only for rows whose certificates were false."""
    policy = make("window")
    plan = plan_for(policy, policy.config.sampler, torch.float32)
    policy.held_out = torch.rand(4, 2, 3)
    tried = []
    solve = policy.solve

    def lying(obs: Any, solver: Any, noise: Any) -> Any:
        found = solve(obs, solver, noise)
        if solver.tolerance is None:
            return found
        tried.append((solver.stop.safety, len(obs)))
        off = solver.stop.safety < LADDER[2] and len(obs) > 1
        sample = found.sample.clone()
        sample[:1] += 1.0 if off else 0.0
        return replace(found, sample=sample)

    monkeypatch.setattr(policy, "solve", lying)
    scores = list(scored(policy, replace(plan, solvers=("picard",)), policy.held_out, 4, 0))[-1]
    assert scores == [LADDER[1]] + [LADDER[0]] * 3
    assert (LADDER[1], 1) in tried


def test_low_precision_is_tried_at_what_it_settles() -> None:
    policy = make("window")
    plan = plan_for(policy, policy.config.sampler, torch.bfloat16)
    assert min(plan.tolerances) == certify.finest(torch.bfloat16)


def test_rows_that_were_certified_falsely_are_not() -> None:
    """DDPM-100 of the released MLP: with a factor of 4 these chunks are off by up to 1.8 e."""
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    assert policy.held_out is not None
    said = {"sampler": "ddpm", "temperature": 1.0}
    sequential = policy.solver({"method": "sequential", **said})
    noise = policy.draw_noise(64, sequential.sampler, torch.Generator().manual_seed(1))
    rows = torch.tensor([16, 23])
    obs, noise = policy.held_out[rows], noise.pick(rows)
    exact = policy.solve(obs, sequential, noise).sample
    usual_false = 0
    for tolerance in (1e-3, 1e-2):
        for safety in (SAFETY, None):
            given = {"method": "picard", "tolerance": tolerance, "safety": safety, **said}
            found = policy.solve(obs, policy.solver(given), noise)
            false = found.certified & ((found.sample - exact).abs().amax(dim=(1, 2)) > tolerance)
            assert bool(found.certified.all())
            assert safety is not None or not bool(false.any())
            usual_false += int(false.sum()) if safety is not None else 0
    assert usual_false >= 2


@pytest.mark.parametrize("name", ["released/pusht", "released/pusht_mlp"])
def test_what_ships_is_calibrated(name: str) -> None:
    policy = DiffusionPolicy.from_pretrained(name)
    for method in ("picard", "anderson", "pcm", "adaptive"):
        for tolerance in certify.TOLERANCES:
            solver = policy.solver({"method": method, "tolerance": tolerance})
            assert policy.trust(solver) != UNCALIBRATED, solver.label

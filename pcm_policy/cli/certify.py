"""``pcm-bench certify``: calibrate the certificates of a policy's sampler."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from pcm_policy.checks import number
from pcm_policy.cli.compose import load_policy, plain, writable
from pcm_policy.cli.settings.measure import CertifySettings
from pcm_policy.cli.tasks import reading_of
from pcm_policy.errors import PcmError
from pcm_policy.files import parse_json, read_json, refuse_existing, to_json, write_text
from pcm_policy.measure.certify import Plan, bounding, plan_for, scored
from pcm_policy.measure.conditions import conditions
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.folder import CERTIFICATES
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.hub import hub_id
from pcm_policy.policy.places import resolve, resolve_data
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.blocks import in_blocks
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.modes import MODES
from pcm_policy.runtime.precision import TYPES, precision_of
from pcm_policy.solvers.certificate import PRECISIONS, Certificate, Certificates
from pcm_policy.solvers.registry import SAMPLER
from pcm_policy.solvers.stops import SAFETY
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.output import FRAMES
from pcm_policy.training.reading import load_demonstrations

SCORES = "certify.json"


def certify_main(config: CertifySettings) -> Certificate:
    """Calibrate one sampler in one precision; writes it into the policy's folder."""
    output, folder = writable(config.output_dir), _own_folder(config.policy)
    if not config.resume:
        refuse_existing(output / SCORES, config.overwrite)
    policy = load_policy(config)
    weights, precision = fingerprint(policy), precision_of(policy.execute, policy.dtype)
    if precision not in PRECISIONS:
        raise PcmError(f"certificates are calibrated in {', '.join(PRECISIONS)}, not {precision}")
    plan = _plan(policy, config)
    observations = _observations(policy, config, output)
    if isinstance(MODES.find(config.runtime.mode), Engine):
        policy.use(in_blocks(policy, config.runtime))
    of = {
        "weights": weights,
        "precision": precision,
        "plan": asdict(plan),
        "observations": hashlib.sha256(observations.numpy().tobytes()).hexdigest()[:16],
        "seed": config.seed,
    }
    file = output / SCORES
    done = _resumed(file, of, config)
    made = conditions(policy)

    def keep(scores: Sequence[float]) -> None:
        write_text(file, to_json({"of": of, **made, "scores": list(scores)}))

    scores = _scored(policy, plan, observations, config, done, keep)
    factor, coverage = bounding(scores, config.coverage, config.confidence)
    entry = Certificate(
        sampler=plan.sampler,
        precision=precision,
        factor=factor,
        coverage=coverage,
        confidence=config.confidence,
        rows=len(scores),
        observations=min(len(observations), len(scores)),
        solvers=plan.solvers,
        tolerances=plan.tolerances,
        solves=plan.solves,
        false_at_usual=sum(score > SAFETY for score in scores),
    )
    known = policy.certificates or Certificates(weights)
    write_text(folder / CERTIFICATES, to_json(known.with_entry(entry).to_json()))
    print(f"{plan.sampler.label} in {precision}: safety factor {factor:g} covers {entry.said}")
    print(
        f"{entry.rows} rows of {entry.observations} observations; at the usual factor, "
        f"{SAFETY:g}, {entry.false_at_usual} of them had a false certificate"
    )
    print(folder / CERTIFICATES)
    return entry


def _own_folder(name: str) -> Path:
    """Return the policy's folder, if something may be written there."""
    if not Path(name).exists() and hub_id(name) is not None and not name.startswith("released/"):
        raise PcmError(f"policy={name} is on the hub: save it to a folder, and name that")
    return writable(str(resolve(name)))


def _plan(policy: DiffusionPolicy, config: CertifySettings) -> Plan:
    """Return what is tried, in the sampler that the solver section says."""
    said = {k: v for k, v in plain(config.solver).items() if v is not None}
    for key in said:
        if key not in {"method", *SAMPLER}:
            raise PcmError(
                f"solver.{key} is no setting of a sampler, and a factor belongs to a sampler: give "
                "solver=ddpm, solver.steps and the like alone"
            )
    usual = {"method": "sequential"} if said else {}
    sampler = policy.solver(usual | said).sampler
    dtype = TYPES[config.runtime.precision] or policy.dtype
    plan = plan_for(policy, sampler, dtype, config.solves, config.batch, config.solvers)
    cells = 1 if plan.solves == "all" else len(plan.cells)
    if config.rows < (needed := (cells - 1) * plan.batch + 1):
        raise PcmError(
            f"rows={config.rows}: solves=one takes one of {cells} steps and tolerances a batch of "
            f"{plan.batch}, and each needs rows: give rows={needed} or more, a smaller batch, or "
            "fewer solvers"
        )
    number("coverage", config.coverage, above=0, below=1)
    number("confidence", config.confidence, above=0, below=1)
    return plan


def _observations(policy: DiffusionPolicy, config: CertifySettings, output: Path) -> Tensor:
    """Return raw observations ``(n, To, Do)``: the policy's own, or of held-out episodes."""
    if config.demonstrations is None:
        return held_out_observations(config.policy)
    split = policy.config.demonstrations
    dataset = DatasetConfig(
        resolve_data(config.demonstrations),
        val_fraction=split.get("val_fraction", DatasetConfig.val_fraction),
        val_seed=split.get("val_seed", DatasetConfig.val_seed),
        names=dict(reading_of(policy.config, {}).get("names") or {}),
        symmetry=None,
    )
    data = load_demonstrations(dataset, policy.config, output / FRAMES)
    return data.observations(policy, config.rows)


def _resumed(file: Path, of: dict[str, Any], config: CertifySettings) -> list[float]:
    """Return the scores that a run which was cut off left.

    Raises:
        PcmError: they are of other settings, weights or observations.
    """
    if not (config.resume and file.exists()):
        return []
    kept = read_json(file)
    if not isinstance(kept, dict) or kept.get("of") != parse_json(to_json(of)):
        raise PcmError(
            f"{file} is of other settings, weights or observations: give another output_dir"
        )
    scores = kept.get("scores")
    if not isinstance(scores, list):
        raise PcmError(f"{file} holds no scores: give another output_dir")
    done = [number(f"{file}: score", score, SAFETY) for score in scores]
    whole = len(done) - len(done) % config.batch  # the last batch may have been a shorter one
    return done[: whole if whole < config.rows else config.rows]


def _scored(
    policy: DiffusionPolicy,
    plan: Plan,
    observations: Tensor,
    config: CertifySettings,
    done: list[float],
    keep: Callable[[Sequence[float]], None],
) -> list[float]:
    """Return the scores of all rows, and keep those that there are after every batch."""
    found = done
    with tqdm(total=config.rows, initial=len(done), desc="rows", disable=None) as bar:
        for found in scored(policy, plan, observations, config.rows, config.seed, done):
            keep(found)
            bar.update(len(found) - bar.n)
    return found

"""One config for every solver: what ``solver=...`` means on the command line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.heads import switching
from pcm_policy.heads.base import Head
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.before import (
    SolveResult,
    adaptive,
    anderson,
    coarse,
    newton,
    paradigms,
    picard,
    sequential,
)
from pcm_policy.solvers.before.adaptive import HeadOnBase
from pcm_policy.solvers.before.base import Watch, forcing
from pcm_policy.solvers.before.iterate import SAFETY, Predictor
from pcm_policy.solvers.before.newton import Jacobian, QuasiNewton
from pcm_policy.solvers.deadline import Deadline, synchronize
from pcm_policy.solvers.loop import clipped_start
from pcm_policy.solvers.system import Iterate, System

SETTLED_BY = 4
"""Most rounds of a PCM solve that stops when it settles, where they are not said."""
Method = Literal["sequential", "picard", "coarse", "anderson", "newton", "pcm", "paradigms"]


@dataclass(frozen=True)
class SolverConfig:
    """A sampler and the way to solve it.

    Attributes:
        method: one of ``Method``, each a file of :mod:`pcm_policy.solvers`.
        sampler: the sampler whose chunk is wanted.
        rounds: number of rounds; with a tolerance the largest number; None for no limit.
        tolerance: stop when the certified error is below this, in normalised action units.
        settle: stop a row when a round has moved its chunk by less than this, root mean square in
            normalised action units; at the latest after ``rounds``. Nothing is certified.
        safety: factor from a base round's residual to the certified error.
        window: states evaluated in one base round; None for all.
        pcm_rounds: rounds at full share of the head, base rounds after them.
        stiffness: use the paper's ramp over ``rounds`` with this stiffness instead.
        adaptive: leave the head after ``pcm_rounds`` (1), or row by row when the base residual no
            longer shrinks, and certify in any round (:mod:`pcm_policy.solvers.before.adaptive`).
        memory: rounds that Anderson mixing looks back, for ``coarse``, ``anderson``, ``newton`` and
            the base rounds of ``adaptive``.
        shares: share of the nodes that the first rounds of ``coarse`` and ``newton`` evaluate;
            None for the method's own: a quarter, then half; ``newton`` evaluates all.
        deadline_ms: end the solve when another round would take it past this many milliseconds;
            the best chunk so far is returned, certified or not.
    """

    method: Method = "sequential"
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    rounds: int | None = None
    tolerance: float | None = None
    settle: float | None = None
    safety: float = SAFETY
    window: int | None = None
    pcm_rounds: int | None = None
    stiffness: float | None = None
    adaptive: bool = False
    memory: int = 2
    shares: tuple[float, ...] | None = None
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise PcmError(f"solver.method={self.method!r}: use one of {get_args(Method)}")
        if self.method == "pcm" and self.stiffness is not None:
            if self.rounds is None:
                raise PcmError("solver.stiffness is the ramp over solver.rounds: give both")
            if self.pcm_rounds is not None:
                raise PcmError("give solver.pcm_rounds (a step) or solver.stiffness (a ramp)")

        if self.adaptive and (
            self.method != "pcm" or self.tolerance is None or self.stiffness is not None
        ):
            raise PcmError(
                "solver.adaptive switches a PCM head off by its residual: it needs "
                "solver.method=pcm and solver.tolerance, and no solver.stiffness"
            )
        if self.settle is not None and (
            self.method in ("sequential", "paradigms")
            or self.settle <= 0
            or self.rounds is None
            or self.tolerance is not None
        ):
            raise PcmError(
                f"solver.settle={self.settle} with solver.method={self.method}: give a positive "
                "value, solver.rounds as the most, no solver.tolerance, and a method of rounds"
            )
        if self.shares is not None:
            object.__setattr__(self, "shares", tuple(self.shares))  # a list where read from a file
            if self.method not in ("coarse", "newton") or any(not 0 < s <= 1 for s in self.shares):
                raise PcmError(
                    f"solver.shares={list(self.shares)} with solver.method={self.method}: shares "
                    "of the nodes in (0, 1], for coarse and newton"
                )
        if self.deadline_ms is not None and (
            self.method in ("sequential", "paradigms") or self.deadline_ms <= 0
        ):
            raise PcmError(
                f"solver.deadline_ms={self.deadline_ms} with solver.method={self.method}: give a "
                "positive time and a method that has a usable chunk after every round"
            )
        if (
            self.pcm_rounds is not None
            and self.rounds is not None
            and self.pcm_rounds > self.rounds
        ):
            raise PcmError(
                f"solver.pcm_rounds={self.pcm_rounds} is more than solver.rounds={self.rounds}"
            )

    @classmethod
    def from_flat(cls, values: Mapping[str, Any], sampler: SamplerConfig) -> "SolverConfig":
        """Build from one flat mapping, as the command line gives it.

        Args:
            values: fields of this class and of ``SamplerConfig`` side by side, the sampler's name
                under ``sampler``. A sampler field that is None is taken from ``sampler``.
            sampler: the policy's own sampler.

        Raises:
            PcmError: an unknown field, or a value out of range.
        """
        known = {f.name for f in fields(SamplerConfig)}
        own = {f.name for f in fields(cls)} - {"sampler"}
        unknown = set(values) - known - own - {"sampler"}
        if unknown:
            raise PcmError(f"unknown solver setting {sorted(unknown)[0]!r}")
        given = {k: v for k, v in values.items() if k in known and v is not None}
        if values.get("sampler") is not None:
            given["name"] = values["sampler"]
        if "timesteps" in given:
            given.setdefault("steps", len(given["timesteps"]))
        elif "steps" in given or "spacing" in given:
            given["timesteps"] = None
        merged = asdict(sampler) | given
        rest = {k: v for k, v in values.items() if k in own and v is not None}
        free = rest.get("rounds") is None and rest.get("tolerance") is None
        if free and rest.get("stiffness") is None:
            timed = rest.get("deadline_ms") is not None or rest.get("adaptive")
            if rest.get("method") == "pcm" and not timed:
                rest |= {"rounds": rest.get("pcm_rounds") or 2}
            elif rest.get("method") != "sequential":
                rest |= {"tolerance": 1e-3}
        return cls(sampler=SamplerConfig(**merged), **rest)

    def to_flat(self) -> dict[str, Any]:
        """Return the mapping that :meth:`from_flat` takes, without what is None."""
        values = asdict(self)
        sampler = values.pop("sampler")
        values |= {k: v for k, v in sampler.items() if k != "name"} | {"sampler": sampler["name"]}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {k: v for k, v in plain.items() if v is not None}

    @property
    def head_rounds(self) -> int:
        """Rounds in which an adaptive solve may use the head; one certifies soonest."""
        return 1 if self.pcm_rounds is None else self.pcm_rounds

    @property
    def strengths(self) -> tuple[float, ...]:
        """The head's share of every round."""
        if self.method != "pcm":
            return ()
        if self.stiffness is not None and self.rounds is not None:
            return switching.ramp(self.rounds, self.stiffness)
        rounds = self.pcm_rounds
        if rounds is None:
            fixed = self.tolerance is None and self.rounds is not None
            rounds = self.rounds if fixed and self.rounds is not None else 2
        return switching.step(rounds)

    @property
    def label(self) -> str:
        """Short name for tables, such as ``pcm 2 (ddim-16)``."""
        base = self.sampler.label
        if self.method == "sequential":
            return base
        stop = "" if self.rounds is None else f" {self.rounds}"
        stop += "" if self.pcm_rounds in (None, self.rounds) else f" head {self.pcm_rounds}"
        stop += "" if self.stiffness is None else f" ramp {self.stiffness:g}"
        stop += " adaptive" if self.adaptive else ""
        stop += " coarse" if self.method == "newton" and self.shares else ""
        stop += "" if self.tolerance is None else f" tol {self.tolerance:g}"
        stop += "" if self.settle is None else f" settle {self.settle:g}"
        stop += "" if self.deadline_ms is None else f" {self.deadline_ms:g} ms"
        return f"{self.method}{stop} ({base})"


def solve(
    config: SolverConfig,
    denoise: Denoiser,
    noise: Noise,
    head: Head | None = None,
    guess: Tensor | None = None,
    jacobian: Jacobian | None = None,
    watch: Watch | None = None,
) -> SolveResult:
    """Run the solver that ``config`` names.

    Args:
        config: the solver; its sampler must be the one in ``denoise``.
        denoise: the base map ``D``.
        noise: all the randomness of the solve.
        head: the PCM head, for ``method="pcm"``.
        guess: ``(B, T, Da)`` guess of the clean chunk, NaN in rows without one, for all but
            ``sequential`` and ``paradigms``, which start from the noise alone.
        jacobian: of this base and sampler, for ``method="newton"``.
        watch: called with all states after every round; ``sequential`` has none.

    Raises:
        PcmError: the solver's settings do not fit together, or the head or Jacobian is missing.
    """
    if config.method == "sequential":
        return sequential(denoise, noise)
    limits: dict[str, Any] = {
        "rounds": config.rounds,
        "tolerance": config.tolerance,
        "window": config.window,
        "watch": watch,
    }
    if config.method == "paradigms":
        return paradigms(denoise, noise, **limits)
    limits |= {"safety": config.safety, "guess": guess, "settle": config.settle}
    if config.deadline_ms is not None:
        finish = partial(synchronize, noise.initial.device)
        limits["stop"] = Deadline(config.deadline_ms, finish)
    if config.shares is not None:
        limits["shares"] = config.shares
    if config.method == "coarse":
        return coarse(denoise, noise, memory=config.memory, **limits)
    if config.method == "anderson":
        return anderson(denoise, noise, memory=config.memory, **limits)
    if config.method == "newton":
        if jacobian is None:
            raise PcmError(
                "solver.method=newton needs the base's mean Jacobian: call policy.calibrate("
                "observations, sampler) first, or use solver=anderson"
            )
        return newton(denoise, noise, jacobian=jacobian, memory=config.memory, **limits)
    if config.method == "picard":
        return picard(denoise, noise, **limits)
    if head is None:
        raise PcmError("this policy has no PCM head: run pcm-distill, or use solver=picard")
    s = System(denoise, noise, forcing(denoise.sampler, noise), head)
    first = clipped_start(s)
    if first is not None:
        limits["guess"] = first if guess is None else torch.where(guess.isnan(), first, guess)
    own = head.jacobian(denoise.sampler)
    if config.adaptive:
        rounds, memory = config.head_rounds, config.memory
        return adaptive(
            denoise, noise, head=on_base(head), most=rounds, memory=memory, jacobian=own, **limits
        )
    if own is not None:
        limits["correct"] = QuasiNewton(own, 0)
    return picard(denoise, noise, head=as_predictor(head), strengths=config.strengths, **limits)


def on_base(head: Head) -> HeadOnBase:
    """Adapt a head that adds to given base predictions.

    Raises:
        PcmError: a head with weights of its own, which has no base prediction to add to.
    """
    if not head.adds_to_base:
        raise PcmError(
            "solver.adaptive needs a head that adds to the base prediction (head=window): this one "
            "changes the weights; use solver.pcm_rounds or solver.stiffness"
        )

    def predict(denoise: Denoiser, forced: Tensor, states: Tensor, k: int, base: Tensor) -> Tensor:
        return _call(head, denoise, forced, states, k, 1.0, base)

    return predict


def as_predictor(head: Head) -> Predictor:
    """Adapt a head to the solver: every row is in the same round."""

    def predict(
        denoise: Denoiser, forced: Tensor, states: Tensor, k: int, strength: float
    ) -> Tensor:
        return _call(head, denoise, forced, states, k, strength)

    predict.nodes = lambda denoise: head.nodes(denoise.sampler)  # type: ignore[attr-defined]
    predict.evaluations = getattr(head, "evaluations", None)  # type: ignore[attr-defined]
    return predict


def _call(
    head: Head,
    denoise: Denoiser,
    forced: Tensor,
    states: Tensor,
    k: int,
    strength: float,
    base: Tensor | None = None,
) -> Tensor:
    last = forced[-1:]
    s = System(denoise, Noise(forced[0]), torch.cat([forced, last]), head)
    x = Iterate(k, torch.cat([states, last]), states, forced[..., 0, 0])
    return head.forward(s, x, strength, base)

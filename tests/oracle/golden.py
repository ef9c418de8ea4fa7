"""Write ``tests/golden/solvers.npz``: ``python -m tests.oracle.golden``, from the repository root.

Every result is the former loop's. It is compared with the present one's first, bit for bit. Where
the former loop said less (rounds of every row; ParaDiGMS: residuals and bounds of every row), the
present one's words are kept.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch

from pcm_policy.solvers import Paradigms, Settle, SolveResult, Stop, Tolerance, rounds, solve
from tests import oracle
from tests.golden.solvers import (
    FILE,
    FULL,
    MIXED,
    NAMES,
    PROBLEMS,
    RAMP,
    STOPS,
    WINDOW_STOPS,
    S,
    Solve,
    counts,
    hard,
    solves,
    values,
)
from tests.oracle.adapters import as_predictor, on_base
from tests.problems import make_head

Old = Callable[[], SolveResult]
MARGIN = 1e-6


def words(stop: Stop) -> dict[str, Any]:
    """Return a stop as the former loop was told it."""
    if isinstance(stop, Tolerance):
        return {"rounds": stop.rounds, "tolerance": stop.error, "safety": stop.safety}
    settle = {"settle": stop.level} if isinstance(stop, Settle) else {}
    return {"rounds": stop.rounds, **settle}


def former(kind: str, name: str) -> Iterator[Old]:
    """Yield the former solves in the order of :func:`tests.golden.solvers.solves`."""
    denoise, noise, jacobian, guesses = hard(kind)
    window: Any = make_head("window", denoise, gain=0.3)
    if name == "paradigms":
        for size, count in product((None, 5), (S, S + 3)):
            yield partial(oracle.paradigms, denoise, noise, rounds=count, window=size)
        for size in (None, 5):
            one = replace(denoise, cond=denoise.cond[2:3])
            yield partial(oracle.paradigms, one, noise.row(2), tolerance=0.05, window=size)
        return
    if name == "adaptive":
        for most, own, error in product((1, 3), (None, jacobian), (0.05, 1e-4)):
            given = {"head": on_base(window), "most": most, "jacobian": own, "tolerance": error}
            yield partial(oracle.adaptive, denoise, noise, **given)
        return
    head = partial(oracle.picard, head=as_predictor(window), strengths=FULL)
    if name.startswith("window-"):
        olds, stops = [oracle.picard, oracle.anderson, head], WINDOW_STOPS
        olds = [partial(old, window=int(name.removeprefix("window-"))) for old in olds]
    else:
        olds, stops = [headed(name, denoise, jacobian) if name in HEADED else PLAIN[name]], STOPS
        if name.startswith("newton"):
            olds = [partial(olds[0], jacobian=jacobian)]
    for old, guess, stop in product(olds, guesses, stops):
        yield partial(old, denoise, noise, guess=guess, **words(stop))


PLAIN: dict[str, Callable[..., SolveResult]] = {
    "plain": oracle.picard,
    "anderson": oracle.anderson,
    "anderson-3": partial(oracle.anderson, memory=3),
    "coarse-0": partial(oracle.coarse, memory=0),
    "coarse": oracle.coarse,
    "newton-0": partial(oracle.newton, memory=0),
    "newton": oracle.newton,
    "newton-coarse": partial(oracle.newton, shares=(0.25, 0.5)),
}
HEADED = {
    "head-newton": ("window", FULL),
    "head": ("window", FULL),
    "ramp": ("window", RAMP),
    "mixed": ("window", MIXED),
    "lora-mixed": ("lora", MIXED),
    "copy-ramp": ("copy", RAMP),
}


def headed(name: str, denoise: Any, jacobian: Any) -> Callable[..., SolveResult]:
    """Return a former solver with a head."""
    kind, shares = HEADED[name]
    own: Any = make_head(kind, denoise, gain=0.3)
    old = partial(oracle.picard, head=as_predictor(own), strengths=shares)
    return partial(old, correct=oracle.QuasiNewton(jacobian, 0)) if "newton" in name else old


def margin(given: Solve) -> float:
    """Return how near a solve comes to one of its thresholds, relatively."""
    s, x, step, stop = given
    found, last = [1.0], x.X[-1]
    for _, now, _ in rounds(s, x, step, stop):
        if isinstance(stop, Tolerance):
            off = (stop.safety * now.moved / stop.error - 1).abs()
        elif isinstance(stop, Settle):
            off = ((now.X[-1] - last).square().mean(dim=(1, 2)).sqrt() / stop.level - 1).abs()
        else:
            continue
        found.append(float(off.min()))
        last = now.X[-1]
    return min(found)


def checked(old: SolveResult, given: Solve) -> SolveResult:
    """Return the former result, after comparing it."""
    new = solve(*given)
    assert (old.rounds, old.nfe) == (new.rounds, new.nfe)
    torch.testing.assert_close(new.trajectory, old.trajectory, rtol=0, atol=1e-11)
    if old.row_rounds is None:
        old = replace(old, row_rounds=new.row_rounds)
    if isinstance(given[2], Paradigms):
        old = replace(old, residuals=new.residuals, bound=new.bound, certified=new.certified)
    assert np.array_equal(counts(old), counts(new))
    np.testing.assert_allclose(values(new), values(old), rtol=1e-9, atol=1e-9)
    return old


@torch.no_grad()
def main() -> None:
    """Solve, compare, write."""
    found: dict[str, Any] = {}
    for kind, name in product(PROBLEMS, NAMES):
        new, old = list(solves(kind, name)), list(former(kind, name))
        near = min(map(margin, new))
        assert near > MARGIN, (kind, name, near)
        results = [checked(one(), given) for one, given in zip(old, new, strict=True)]
        found[f"{kind}/{name}/values"] = np.stack([values(r) for r in results]).astype(np.float32)
        found[f"{kind}/{name}/counts"] = np.stack([counts(r) for r in results])
        print(kind, name, len(results), f"nearest {near:.0e}", flush=True)
    np.savez_compressed(FILE, **found)
    print(FILE.stat().st_size)


if __name__ == "__main__":
    main()

"""Both released policies' studies side by side: the rows that most readers want."""

from collections.abc import Mapping
from typing import Any

from benchmarks.pasted import block
from benchmarks.study.show import gap

Study = Mapping[str, Any]
FEW_STEPS = ("DDIM", "DPM-Solver++")
CERTIFIED = {"adaptive PCM": "adaptive", "Anderson": "anderson", "Picard": "picard"}
TO_ERROR = {"PCM": "PCM", "quasi-Newton": "Newton", "Picard": "Picard", "ParaDiGMS": "ParaDiGMS"}


def text(unet: Study, mlp: Study) -> str:
    """Return the table of the studies of ``released/pusht`` and ``released/pusht_mlp``."""
    both = (unet, mlp)
    lines = [[f"base ({'; '.join(s['base'] for s in both)}): score, success", *map(base, both)]]
    for k in (1, 2, 3):
        gaps = [gaps_of(row(study, f"PCM {k}")) for study in both]
        lines.append([f"PCM {k} - base: score, success", *gaps])
    for k, calls in ((1, 2), (1, 4), (2, 4)):
        names = [best(study, calls) for study in both]
        gaps = [pair(s, f"PCM {k} - {name}") for s, name in zip(both, names, strict=True)]
        lines.append([f"PCM {k} - best few-step of {calls}: score, success", *gaps])
    for k in (1, 2):
        found = [pair(study, f"PCM {k} - consistency {k}") for study in both]
        lines.append([f"PCM {k} - consistency model, as many calls: score", *found])
    lines += [
        ["RMSE to the base chunk after 1, 2, 3 rounds", *(errors(s, "rmse") for s in both)],
        ["its p95", *(errors(s, "rmse_p95") for s in both)],
        ["settling after 2 rounds on average: mean, p95", *map(settled, both)],
        [f"rounds to RMSE 0.02 (interpolated): {', '.join(TO_ERROR)}", *map(to_error, both)],
        [f"rounds until certified at 1e-2: {', '.join(CERTIFIED)}", *map(certified, both)],
        ["largest growth of the RMSE after 2 rounds off the data", *map(growth, both)],
        ["milliseconds a chunk: PCM 1, 2; best few-step of 2, 4; base", *map(times, both)],
    ]
    head = ["", "`released/pusht` (U-Net)", "`released/pusht_mlp`"]
    counts = " and ".join(dict.fromkeys(str(study["episodes"]) for study in both))
    start = f"{counts} episodes (full tables in `benchmarks/results/study/*/study.md`):\n\n"
    return start + block(head, lines)


def row(study: Study, name: str) -> Mapping[str, Any]:
    """Return a row of a study by its name."""
    found: Mapping[str, Any] = next(one for one in study["rows"] if one["name"] == name)
    return found


def best(study: Study, calls: int) -> str:
    """Return which few-step sampler of so many calls has the best score; the faster of equals."""
    rows = [one for one in study["rows"] if one["name"] in [f"{f} {calls}" for f in FEW_STEPS]]
    return str(max(rows, key=lambda one: (one["score"]["mean"], -one["ms"]["p50"]))["name"])


def base(study: Study) -> str:
    """Return the base's score and success."""
    found = next(one for one in study["rows"] if one["family"] == "base")
    return f"{found['score']['mean']:.3f}, {found['success']['mean']:.3f}"


def gaps_of(found: Mapping[str, Any]) -> str:
    """Return paired differences of score and success, with their intervals."""
    return ", ".join(gap(found[name]) for name in ("score", "success"))


def pair(study: Study, name: str) -> str:
    """Return the differences of a pair of rows; nothing where it was not compared.

    A study of an earlier version compared scores alone.
    """
    one = next((one for one in study["pairs"] if one["pair"] == name), None)
    if one is None:
        return ""
    return gaps_of(one) if "score" in one else f"{gap(one)} (score)"


def errors(study: Study, name: str) -> str:
    """Return an error after one, two and three rounds."""
    return ", ".join(f"{row(study, f'PCM {k}')[name]:.4f}" for k in (1, 2, 3))


def settled(study: Study) -> str:
    """Return the errors of rows that end by themselves."""
    found = row(study, "PCM mean 2")
    return f"{found['rmse']:.4f}, {found['rmse_p95']:.4f}"


def to_error(study: Study) -> str:
    """Return how many rounds solvers take to an RMSE of 0.02."""
    found, most = study["fractional_rounds"]["0.02"], len(study["rmse_by_round"]["Picard"])
    rounds = [found.get(family) for family in TO_ERROR.values()]
    return ", ".join(f"more than {most}" if r is None else f"{r:.2f}" for r in rounds)


def certified(study: Study) -> str:
    """Return how many rounds solvers take until they are certified; all must be covered.

    A study of an earlier version says ``pcm adaptive``.
    """
    names = [one["solver"].partition(" tol")[0].removeprefix("pcm ") for one in study["certified"]]
    rows = dict(zip(names, study["certified"], strict=True))
    return ", ".join(f"{rows[name]['rounds']:.2f}" for name in CERTIFIED.values())


def growth(study: Study) -> str:
    """Return where the error grows most off the data."""
    worst = max(study["perturbed"], key=lambda one: one["growth_2"])
    return f"{worst['growth_2']:.2f} ({worst['observations']})"


def times(study: Study) -> str:
    """Return the median times."""
    names = [("PCM 1", "PCM 2"), (best(study, 2), best(study, 4))]
    found = [", ".join(f"{row(study, n)['ms']['p50']:.1f}" for n in some) for some in names]
    ms = next(one for one in study["rows"] if one["family"] == "base")["ms"]["p50"]
    return "; ".join([*found, f"{ms:.1f}"])

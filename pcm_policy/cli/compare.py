"""``pcm-eval compare``: two evaluations, episode by episode."""

from pathlib import Path
from typing import Any

from pcm_policy.cli.settings.evaluate import CompareSettings
from pcm_policy.files import refuse_existing, to_json, write_text
from pcm_policy.measure.paired import compare, read_evaluation
from pcm_policy.measure.tables import table


def compare_main(config: CompareSettings) -> dict[str, Any]:
    """Compare the evaluations in two folders or files; returns what is written.

    Raises:
        PcmError: one of them is no evaluation, or they have no episode in common.
    """
    output = None if config.output is None else Path(config.output)
    if output is not None:
        refuse_existing(output, config.overwrite)
    paths = [config.first, config.second]
    reports = [read_evaluation(Path(path)) for path in paths]
    found = compare(*reports)
    labels = [str(report["solver"]["label"]) for report in reports]
    head = ["", f"first: {labels[0]}", f"second: {labels[1]}", "second - first [paired 95 %]"]
    print(table(head, [_row(name, found[name]) for name in ("score", "success") if found[name]]))
    print(
        f"{found['pairs']} episodes of both: {found['better']} better, {found['worse']} worse, "
        f"{found['equal']} equal in score"
    )
    if lost := found["pairs"] - sum(found[key] for key in ("better", "worse", "equal")):
        print(f"{lost} of them have no score in one of the two, and are left out of its difference")
    if found["left_out"]:
        print(f"{found['left_out']} episodes are in one of the two only, and were left out")
    for path, report in zip(paths, reports, strict=True):
        if "incomplete" in report:
            print(f"{path} is incomplete: {report['incomplete']}")
    print(f"they differ in {', '.join(found['differ']) or 'nothing that eval.json names'}")
    if output is not None:
        write_text(output, to_json({"files": paths, **found}))
        print(output)
    return found


def _row(name: str, found: dict[str, Any]) -> list[str]:
    low, high = found["ci95"]
    interval = f"{found['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return [name, f"{found['first']:.3f}", f"{found['second']:.3f}", interval]

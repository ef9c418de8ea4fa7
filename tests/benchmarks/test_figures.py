"""Every measured table of a document is made of result files, and those are of what ships."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import RESULTS, architecture, figures
from benchmarks.figures import FIGURES, PICTURES
from benchmarks.pasted import Figure, pasted, result
from pcm_policy.measure.conditions import weights
from pcm_policy.policy.policy import DiffusionPolicy

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS_OF_FIGURES = sorted({x for figure in (*FIGURES, *PICTURES) for x in figure.results})
ELSEWHERE = {
    **{
        f"routes/{name}.json": "a route trains its own policy"
        for name in (
            *figures.ROUTES,
            "adroit_door",
            "aloha_transfer_cube",
            "lift_image",
            *(f"{task}-robosuite-1.5" for task in ("lift", "can", "square")),
        )
    },
    **{f"arms/{name}.json": "of a route's policy" for name in figures.ARMS if name != "pusht"},
    "engines/unet-65m.json": "random weights",
    "compare/cpu-65m.json": "random weights",
    "cameras/cameras.json": "untrained weights",
    "images.json": "the example trains its own networks",
    **{
        f"lerobot/{name}.json": "policies of LeRobot, trained briefly"
        for name in ("rounds", "speed", "heads")
    },
    "memory/big_hdf5.json": "trains its own policy",
    "memory/big_lerobot.json": "trains its own policy",
    "scale/agreement.json": "trains its own policy",
    "scale/training.json": "trains its own policy",
    "versions.json": "no policy",
    "robosuite_versions.json": "no policy",
}
"""Results that show no weights of a released policy, and why."""


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f"{Path(f.document).stem} {f.name}")
def test_a_table_is_what_its_results_give(figure: Figure) -> None:
    assert pasted(figure.document, figure.name) == figure.made()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_table_between_marks_is_a_figure(document: Path) -> None:
    found = set(re.findall(r"<!-- ([\w-]+):begin -->", document.read_text()))
    name = str(document.relative_to(ROOT))
    known = {figure.name for figure in FIGURES if figure.document == name}
    if name == architecture.PAGE:
        known |= {"rooms", "table", "rules", "path"}  # of the code
    assert found == known | ({"certificates"} if name == "docs/solvers.md" else set())  # of cards


def test_every_picture_of_a_document_is_made_of_results() -> None:
    shown = {
        (document.parent / target).resolve().relative_to(RESULTS)
        for document in DOCUMENTS
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", document.read_text())
    }
    drawn = {Path(picture.file) for picture in PICTURES}
    assert shown == drawn | {Path("images.png")}  # what networks drew that are not kept


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    for picture in PICTURES:
        picture.draw(*picture.found(), tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def digests(found: Any) -> Iterator[str]:
    """Yield all fingerprints of weights in a result."""
    if isinstance(found, dict):
        found = list(found.values())
    for value in found if isinstance(found, list) else ():
        if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value):
            yield value
        else:
            yield from digests(value)


@pytest.fixture(scope="module")
def shipped() -> set[str]:
    names = ("released/pusht", "released/pusht_mlp")
    return {d for n in names for d in weights(DiffusionPolicy.from_pretrained(n)).values()}


@pytest.mark.parametrize("name", RESULTS_OF_FIGURES)
def test_a_published_figure_is_of_the_weights_that_ship(name: str, shipped: set[str]) -> None:
    found = set(digests(result(name)))
    if name not in ELSEWHERE:
        assert found, f"{name} says of no weights: make it again, or say why in ELSEWHERE"
        assert found <= shipped, f"{name} is of weights that do not ship: make it again"


def test_other_weights_are_noticed(shipped: set[str]) -> None:
    found = json.loads(json.dumps(result("certified.json")))
    found["policies"]["released/pusht"]["weights"]["head"] = "0123456789abcdef"
    assert not set(digests(found)) <= shipped


def test_the_command_writes_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    for document in DOCUMENTS:
        (tmp_path / document.relative_to(ROOT)).write_text(document.read_text())
    monkeypatch.setattr("benchmarks.pasted.ROOT", tmp_path)
    page = tmp_path / "docs/vla.md"
    begin = "<!-- speed:begin -->\n"
    page.write_text(page.read_text().replace(begin, f"{begin}old\n"))
    with pytest.raises(SystemExit):
        figures.main(["--check"])
    assert capsys.readouterr().out == "docs/vla.md speed: another\n"
    figures.main(["--quick"])
    assert capsys.readouterr().out == "docs/vla.md speed: made again\n"
    assert page.read_text() == (ROOT / "docs/vla.md").read_text()
    figures.main(["--check"])

"""The demo from end to end, with few steps and episodes: its page has what it promises."""

import json
import re
from pathlib import Path

import pytest

from pcm_policy.cli import demo

pytestmark = pytest.mark.slow


def test_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ENGINES", {})  # engines have their own tests
    monkeypatch.setattr(demo, "RELEASED_POLICY", "released/pusht_mlp")  # a quick one
    output = tmp_path / "demo"
    demo.main(output, episodes=2, train_steps=4, distill_steps=2)
    text = (output / "report.html").read_text()
    for name, _ in demo.ROWS:
        assert f"<td>{name}</td>" in text
    shown = re.findall(r"</video><figcaption>([^<]*)", text)
    assert shown == [demo.BASE, demo.ONE] * 2  # the same two episodes, side by side
    assert text.count("data:image/png") == 2
    evaluated = [json.loads(file.read_text()) for file in output.glob("eval/*/eval.json")]
    assert len(evaluated) == len(demo.ROWS) + 1
    assert len({tuple(e["seed"] for e in one["episodes"]) for one in evaluated}) == 1
    assert "trained briefly here" in capsys.readouterr().out

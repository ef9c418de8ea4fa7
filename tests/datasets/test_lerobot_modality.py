"""``modality.json`` of GR00T and RoboCasa: shown, kept through conversions, damaged."""

import json
from pathlib import Path

import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary
from pcm_policy.datasets.formats.lerobot_modality import slices
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.datasets.windows import gather_fields
from pcm_policy.errors import PcmError
from tests.datasets.lerobot_folders import folder, table

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[convert]'")
MODALITY = {  # as Isaac-GR00T's getting_started/data_preparation.md writes it
    "state": {"episode": {"start": 0, "end": 1}, "step": {"start": 1, "end": 2}},
    "action": {"both": {"start": 0, "end": 2}, "joint": {"original_key": "observation.state"}},
    "video": {"ego_view": {"original_key": "observation.images.ego_view"}},
    "annotation": {"human.action.task_description": {}},
}


def made(path: Path, text: str) -> Path:
    lr = folder(path, {"file-000.parquet": table()})
    (lr / "meta/modality.json").write_text(text)
    return lr


def test_names_are_shown_and_are_fields(tmp_path: Path) -> None:
    path = made(tmp_path / "lr", json.dumps(MODALITY))
    text = summary(path)
    assert "state.step: observation.state[1:2]" in text
    assert "action.both: action[0:2]" in text
    assert "video.ego_view: observation.images.ego_view" in text
    buffer = open_demonstrations(path, ["observation.state"])
    step = dict(slices(MODALITY))["state.step"]
    assert gather_fields(buffer, [step])[:4, 0].tolist() == [0, 1, 2, 3]


def test_it_survives_the_way_there_and_back(tmp_path: Path) -> None:
    path = made(tmp_path / "lr", json.dumps(MODALITY))
    convert(path, tmp_path / "a.zarr")
    convert(tmp_path / "a.zarr", tmp_path / "back")
    assert json.loads((tmp_path / "back/meta/modality.json").read_text()) == MODALITY


@pytest.mark.parametrize("text", ["[1]", "{", "null"])
def test_damaged(tmp_path: Path, text: str) -> None:
    with pytest.raises(PcmError, match=r"modality\.json"):
        summary(made(tmp_path / "lr", text))


@pytest.mark.parametrize("entry", [None, 3, {"start": "0", "end": 2}, {"start": True, "end": 2}])
def test_entries_of_another_kind_are_not_listed(entry: object) -> None:
    assert list(slices({"state": {"x": entry}, "action": entry, "video": {"y": entry}})) in (
        [],
        [("video.y", "observation.images.y")],
    )

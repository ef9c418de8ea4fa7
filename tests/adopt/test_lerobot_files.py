"""Which folder of a training run is imported, and what is said about it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcm_policy.adopt import read
from pcm_policy.adopt.lerobot_files import AVERAGED, PLAIN, locate
from pcm_policy.errors import PcmError
from tests.adopt.fixtures import write_lerobot

LAST = "diffusion.unet.final_conv.1.bias"


def run(folder: Path, *places: str) -> Path:
    """A run with policies at ``checkpoints/PLACE``, whose last bias counts them."""
    write_lerobot(folder / "one")
    for i, place in enumerate(places):
        target = folder / "run/checkpoints" / place
        shutil.copytree(folder / "one", target)
        weights = load_file(target / "model.safetensors")
        save_file(weights | {LAST: torch.full((2,), float(i))}, target / "model.safetensors")
    return folder / "run"


EMA, BARE = AVERAGED, PLAIN
BOTH = (f"000002/{BARE}", f"000010/{BARE}", f"000010/{EMA}")


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize(
    ("places", "named", "taken", "notes"),
    [
        (BOTH, "", 2, ["checkpoint 000010 of the run", "averaged weights"]),
        (BOTH, "checkpoints", 2, ["checkpoint 000010 of the run", "averaged weights"]),
        (BOTH, "checkpoints/000010", 2, ["averaged weights"]),
        (BOTH, f"checkpoints/000010/{EMA}", 2, ["averaged weights"]),
        (BOTH, f"checkpoints/000010/{BARE}", 1, ["the weights of pretrained_model; beside it"]),
        (BOTH, "checkpoints/000002", 0, []),
        (BOTH[:2], "", 1, ["checkpoint 000010 of the run"]),
        (BOTH[:1], f"checkpoints/000002/{BARE}", 0, []),
    ],
)
def test_the_folder_that_is_meant(
    tmp_path: Path, places: tuple[str, ...], named: str, taken: int, notes: list[str], link: bool
) -> None:
    folder = run(tmp_path, *places)
    if link:  # as LeRobot leaves it; a copy may have lost it
        newest = places[-1].partition("/")[0]
        (folder / "checkpoints/last").symlink_to(newest, target_is_directory=True)
    found = read(folder / named)
    assert found.weights["final_conv.1.bias"].tolist() == [taken, taken]
    chosen = found.notes[: len(notes)]
    assert all(note.startswith(start) for note, start in zip(chosen, notes, strict=True)), chosen
    assert not any(word in str(found.notes[len(notes) :]) for word in ("averaged", "of the run"))


def test_last_is_a_checkpoint_as_any(tmp_path: Path) -> None:
    folder = run(tmp_path, *BOTH)
    (folder / "checkpoints/last").symlink_to("000002", target_is_directory=True)
    assert read(folder / "checkpoints/last").weights["final_conv.1.bias"].tolist() == [0, 0]
    assert read(folder).notes[0] == "checkpoint 000002 of the run"  # the run was resumed from it


@pytest.mark.parametrize("named", ["", "checkpoints", "checkpoints/000002"])
@pytest.mark.parametrize("place", [PLAIN, AVERAGED])
def test_shards_are_named_with_the_command_that_joins_them(
    tmp_path: Path, named: str, place: str
) -> None:
    folder = run(tmp_path, f"000002/{place}")
    model = folder / "checkpoints/000002" / place
    (model / "pytorch_model_fsdp_0").mkdir()
    read(folder / named)  # whole weights lie beside them
    (model / "model.safetensors").unlink()
    command = f"lerobot-convert-dcp --checkpoint_dir={model.parent} first"
    with pytest.raises(PcmError, match="shards of the weights") as caught:
        read(folder / named)
    assert command in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_policy_anywhere(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/000001").mkdir(parents=True)
    assert locate(tmp_path) is None
    with pytest.raises(PcmError, match="no policy that can be imported"):
        read(tmp_path)

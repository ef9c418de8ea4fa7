"""Policy folders: round trips, damage, atomic writes."""

import errno
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pcm_policy.errors import PcmError
from pcm_policy.files import atomic_folder, write_text
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.folder import save_policy
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.tensors import round_to_half
from pcm_policy.training.headed import with_head


def make(head: str | None = None) -> DiffusionPolicy:
    torch.manual_seed(0)
    base = DiffusionPolicy(PolicyConfig(3, 2, network_options={"width": 32, "depth": 1}))
    base.obs_normalizer.scale.uniform_()
    if head is None:
        return base
    policy = with_head(base, {"name": head, "options": {}}, {"name": None}, 1)
    assert policy.head is not None
    for weight in policy.head.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return policy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(make("window"), tmp_path / "policy", observations=torch.rand(5, 2, 3))
    return tmp_path / "policy"


@pytest.mark.parametrize("head", [None, "window", "lora", "copy"])
def test_round_trip_is_bitwise(tmp_path: Path, head: str | None) -> None:
    policy = make(head)
    policy.save_pretrained(tmp_path / "policy")
    loaded = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.config == policy.config
    for name, value in policy.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    obs = torch.zeros(2, 2, 3)
    assert torch.equal(loaded.solve(obs).sample, policy.solve(obs).sample)


def refuses(folder: Path, match: str) -> None:
    with pytest.raises(PcmError, match=match) as caught:
        DiffusionPolicy.from_pretrained(folder)
    assert "\n" not in str(caught.value)


def test_missing_folder() -> None:
    with pytest.raises(PcmError, match=r"no policy folder nowhere/at/all: name one written by"):
        DiffusionPolicy.from_pretrained("nowhere/at/all")


def test_truncated_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refuses(folder, r"model.safetensors is damaged")


def test_pickles_are_never_opened(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    refuses(folder, r"model.safetensors is damaged")
    assert not (tmp_path / "exploded").exists()


def edit(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        key = next(k for k in tensors if k.endswith(name.replace("__", ".")))
        if value is None:
            del tensors[key]
        else:
            tensors[key] = value
    save_file(tensors, folder / "model.safetensors")


def test_missing_normaliser(folder: Path) -> None:
    edit(folder, action_normalizer__scale=None)
    refuses(folder, r"lacks its normaliser \(action_normalizer.scale and 0 more\)")


def test_wrong_shape_and_type(folder: Path) -> None:
    edit(folder, network__out__bias=torch.zeros(7))
    refuses(folder, r"network.out.bias is torch.float32 \(7,\), config.json says .*\(32,\)")
    edit(folder, network__out__bias=torch.zeros(32, dtype=torch.float64))
    refuses(folder, r"network.out.bias is torch.float64")


def test_weights_rounded_to_16_bits_take_half_the_room(folder: Path, tmp_path: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(folder)
    before = (folder / "model.safetensors").stat().st_size
    assert policy.head is not None
    for module in (policy.network, policy.head):
        was = {k: v.clone() for k, v in module.state_dict().items()}
        round_to_half(module)
        for name, value in module.state_dict().items():
            assert value.dtype == was[name].dtype
            torch.testing.assert_close(value, was[name], rtol=2**-11, atol=2**-24)
    policy.config = replace(
        policy.config, head=replace(policy.config.head, base=fingerprint(policy.network))
    )
    policy.save_pretrained(tmp_path / "half")
    file = tmp_path / "half" / "model.safetensors"
    assert file.stat().st_size < 0.7 * before
    again = DiffusionPolicy.from_pretrained(tmp_path / "half").state_dict()
    for name, value in policy.state_dict().items():
        assert value.dtype == again[name].dtype
        assert torch.equal(value, again[name]), name
    policy.network.out.bias.data[0] = 1e5
    with pytest.raises(PcmError, match=r"out\.bias does not fit 16 bits"):
        round_to_half(policy.network)


def test_head_of_another_base(folder: Path) -> None:
    edit(folder, network__out__bias=torch.ones(32))
    refuses(folder, r"the PCM head belongs to base weights .* run pcm-distill")


def test_fingerprint_sees_one_bit() -> None:
    policy = make()
    before = fingerprint(policy.network)
    policy.network.out.bias.data[0] += 1e-7
    assert fingerprint(policy.network) != before


def test_config_damage(folder: Path) -> None:
    file = folder / "config.json"
    good = json.loads(file.read_text())
    for text, match in (
        ("{", r"config.json is not a policy config"),
        (json.dumps(good | {"format_version": 9}), r"config.json has format version 9"),
        (json.dumps({"format_version": 1}), r"config.json is not a policy config"),
        (
            json.dumps(good | {"policy": good["policy"] | {"network": "gpt"}}),
            r"unknown network 'gpt'",
        ),
        (
            json.dumps(good | {"policy": good["policy"] | {"horizon": 3}}),
            r"config.json: horizon=3 is too short",
        ),
    ):
        file.write_text(text)
        refuses(folder, match)
    file.unlink()
    refuses(folder, r"config.json does not exist")


def test_observations(folder: Path) -> None:
    assert held_out_observations(folder).shape == (5, 2, 3)
    (folder / "observations.safetensors").unlink()
    with pytest.raises(PcmError, match=r"observations.safetensors does not exist"):
        held_out_observations(folder)


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "policy"
    target.mkdir()
    (target / "old").write_text("old")

    def interrupted() -> None:
        with atomic_folder(target) as scratch:
            (scratch / "new").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]
    assert [p.name for p in target.iterdir()] == ["old"]
    with atomic_folder(target) as scratch:
        (scratch / "new").write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["policy"]
    assert [p.name for p in target.iterdir()] == ["new"]


def test_full_disk_at_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PcmError, match=r"cannot write .*policy: .*No space left.*free some space"):
        make().save_pretrained(tmp_path / "policy")
    with pytest.raises(PcmError, match=r"cannot write .*eval.json.*free some space"):
        write_text(tmp_path / "eval.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_full_disk_while_writing(tmp_path: Path) -> None:
    """The kernel refuses to let any file grow past 20 kB, as a full disk would."""
    code = f"""
import resource, signal
from pcm_policy.errors import PcmError
from pcm_policy import DiffusionPolicy, PolicyConfig
policy = DiffusionPolicy(PolicyConfig(3, 2))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    policy.save_pretrained({str(tmp_path / "policy")!r})
except PcmError as error:
    assert "cannot write" in str(error) and "\\n" not in str(error), error
    raise SystemExit(7)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 7
    assert list(tmp_path.iterdir()) == []

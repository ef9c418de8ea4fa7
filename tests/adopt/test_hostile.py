"""Hostile checkpoints: each is refused with one line, runs nothing, and costs little memory."""

import builtins
import copy
import io
import json
import os
import pickle
import random
import resource
import shutil
import struct
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from pcm_policy.adopt import Language, read
from pcm_policy.adopt.clip import NOTHING_SAID
from pcm_policy.adopt.torchzip import open_archive, plain
from pcm_policy.errors import PcmError
from tests.adopt.dit_folder import INSTRUCTION, write_dit
from tests.adopt.fixtures import (
    diffusion_policy_payload,
    robomimic_payload,
    transformer_payload,
    write_lerobot,
)

SPENT = 200 << 10  # kB of resident memory that reading a hostile file may add


def refused(path: Path, message: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(PcmError, match=message) as caught:
        read(path).policy()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < SPENT
    assert time.process_time() - start < 5


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def program(path: Path, code: bytes) -> Path:
    """A torch zip whose pickle is any bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("where", ["top", "cfg", "weights"])
@pytest.mark.parametrize("maker", [diffusion_policy_payload, robomimic_payload])
def test_code_is_not_run(tmp_path: Path, where: str, maker: Any) -> None:
    marker = tmp_path / "ran"
    bad = Calls(os.system, f"touch {marker}")
    payload, _ = maker()
    if where == "weights":
        states = payload["state_dicts"] if "cfg" in payload else payload["model"]
        next(iter(states.values()))["evil"] = bad
    elif where == "cfg":
        payload["pickles" if "cfg" in payload else "variable_state"]["evil"] = bad
    else:
        payload = {"evil": bad} | payload
    file = tmp_path / "model.ckpt"
    torch.save(payload, file)
    refused(file, r"names (posix|nt).system, which is neither a tensor nor plain data: refused")
    assert not marker.exists()
    torch.load(file, weights_only=False)  # the file does what it is said to do
    assert marker.exists()


@pytest.mark.parametrize(
    "call",
    [
        Calls(builtins.eval, "1"),
        Calls(builtins.exec, "1"),
        Calls(builtins.getattr, "text", "upper"),
        Calls(builtins.__import__, "os"),
        Calls(subprocess.check_output, ["true"]),
        Calls(shutil.rmtree, "/nonexistent"),
        Calls(torch.load, "elsewhere"),
        Calls(torch.storage._load_from_bytes, b""),
        Calls(torch._utils._rebuild_device_tensor_from_numpy, 1, 2, 3, 4),
        Calls(io.open, "/etc/hostname"),
        Calls(type, "Name", (), {}),
    ],
    ids=lambda c: c.call[0].__name__,
)
def test_no_name_but_those_of_tensors_is_looked_up(tmp_path: Path, call: Calls) -> None:
    file = tmp_path / "model.pth"
    torch.save({"algo_name": "x", "evil": call}, file)
    refused(file, "neither a tensor nor plain data: refused, nothing was executed")


@pytest.mark.parametrize(
    "code",
    [
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}U\x08__code__K\x01sb.",  # BUILD on a function
        b"\x80\x02comegaconf.dictconfig\nDictConfig\n}U\x03abcK\x01sb.",  # BUILD on a class
        b"\x80\x02comegaconf.dictconfig\nDictConfig\nN}U\x0c__setstate__K\x01s\x86b.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",  # calling what is no function
        b"\x80\x02r\xff\xff\xff\x7f.",  # a memo of 2**31 entries
        b"\x80\x02Nr\xff\xff\xff\x7f0.",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a bytearray of a terabyte
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",  # bytes of a terabyte
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".",  # a frame of a terabyte
        b"\x80\x02\x82\x01.",  # a code of the extension registry
        b"\x80\x02U\x04textQ.",  # a storage that is none
        b"\x80\x02(" * 10000,
        b"",
        b"\x00",
    ],
)
def test_programs_that_do_not_run(tmp_path: Path, code: bytes) -> None:
    refused(program(tmp_path / "m.ckpt", code), "damaged|no policy|refused")


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return (
        b"(U\x07storagectorch\n" + kind.encode() + b"\nU\x01" + key.encode() + b"U\x03cpuJ"
        + struct.pack("<i", count) + b"tQ"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((2,), (9,), 0),
        ((1 << 20, 1 << 20), (0, 0), 0),
        ((2,), (-1,), 1),
        ((1,), (1,), 4),
    ],
)
def test_tensors_that_reach_outside(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    parts = b"".join(pickle.dumps(x, 2)[2:-1] for x in (offset, size, stride))
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage(4) + parts + b"tR."
    with (
        open_archive(program(tmp_path / "m.ckpt", code)) as archive,
        pytest.raises(PcmError, match="reaches outside its storage"),
    ):
        archive.tensor(archive.content)


@pytest.mark.parametrize("bad", [storage(5), storage(4, "9"), storage(2, kind="XFloatStorage")])
def test_storages_that_do_not_fit(tmp_path: Path, bad: bytes) -> None:
    code = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + bad + b"K\x00K\x04\x85K\x01\x85tR."
    refused(program(tmp_path / "m.ckpt", code), "damaged|neither a tensor")


def test_zip_bombs(tmp_path: Path) -> None:
    file = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(400 << 20))
    assert file.stat().st_size < 1 << 20
    refused(file, "holds compressed or countless entries: torch writes none, refused")
    file = tmp_path / "overlap.ckpt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/data/0", bytes(1 << 20))
        first = archive.filelist[1]
        for i in range(1, 500):  # the same megabyte under 500 names
            again = zipfile.ZipInfo(f"archive/data/{i}")
            for name in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(again, name, getattr(first, name))
            archive.filelist.append(again)
    refused(file, "would unpack to 52[0-9]+ bytes, more than it has: refused")


def test_config_bombs() -> None:
    many: Any = "x"
    for _ in range(60):
        many = [many, many]  # 2**60 leaves, 60 lists
    with pytest.raises(PcmError, match="nested too deeply or too large"):
        plain(many)
    deep: Any = "x"
    for _ in range(100000):
        deep = [deep]
    with pytest.raises(PcmError, match="nested too deeply or too large"):
        plain(deep)
    while isinstance(deep, list):  # so that Python can free it
        deep = deep[0]


def test_files_that_are_none(tmp_path: Path) -> None:
    payload, _ = diffusion_policy_payload()
    file = tmp_path / "model.ckpt"
    torch.save(payload, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refused(file, "is no torch zip file .*: download it again")
    file.write_bytes(b"")
    refused(file, "is no torch zip file")
    marker = tmp_path / "ran"
    bad = Calls(os.system, f"touch {marker}")
    torch.save({"evil": bad}, file, _use_new_zipfile_serialization=False)
    refused(file, "before torch 1.6")
    assert not marker.exists()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme", "nothing")
    refused(file, "is no torch checkpoint")
    torch.save({"weights": torch.ones(3)}, file)
    refused(file, "a torch file, but no policy")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({NAME: s[NAME].half()}), "final_conv.1.bias is torch.float16"),
        (lambda s: s.update({NAME: s[NAME].long()}), "final_conv.1.bias is torch.int64"),
        (lambda s: s.pop(NAME), "lacks the layer final_conv.1.bias"),
        (lambda s: s.update({NAME: torch.zeros(10**6)}), "has shape"),
        (lambda s: s.update({NAME: "text"}), "lacks the layer final_conv.1.bias"),
        (lambda s: s.pop("normalizer.params_dict.obs.scale"), "lacks its normaliser"),
        (lambda s: [s.pop(k) for k in list(s) if "down_modules" in k], "lacks the layer down"),
    ],
)
def test_wrong_layers(tmp_path: Path, change: Any, message: str) -> None:
    payload, _ = diffusion_policy_payload()
    change(payload["state_dicts"]["ema_model"])
    torch.save(payload, tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.ln_f.bias"), "lacks the layer ln_f.bias"),
        (lambda s: s.pop("model.pos_emb"), "lacks the layer pos_emb"),
        (lambda s: s.update({MASK: torch.zeros_like(s[MASK])}), "mask is not the causal one"),
        (lambda s: s.update({MASK: torch.zeros(3)}), "mask is not the causal one"),
        (lambda s: s.update({"model.more": torch.zeros(1)}), "holds more"),
        (lambda s: [s.pop(k) for k in list(s) if "decoder" in k], "memory_mask is not the"),
        (
            lambda s: [s.pop(k) for k in list(s) if "layers.1.norm" in k],
            "lacks the layer decoder.layers.1.norm1.bias",
        ),
    ],
)
def test_wrong_layers_of_a_transformer(tmp_path: Path, change: Any, message: str) -> None:
    payload, _ = transformer_payload()
    change(payload["state_dicts"]["ema_model"])
    torch.save(payload, tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt", message)


MASK = "model.memory_mask"
NAME = "model.final_conv.1.bias"
ODD: list[Any] = [None, -1, 10**30, float("nan"), "x", "", [], [1], ["a", {}], {}, {"a": 1}, True]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside nested dicts and lists."""
    if path:
        yield path
    if not isinstance(value, dict | list):
        return
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    whole = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = odd
    return whole


def one_line_or_fine(path: Path, language: Language = NOTHING_SAID) -> None:
    message = ""
    try:
        read(path, language).policy()
    except PcmError as error:
        message = str(error)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("maker", "key"),
    [
        (diffusion_policy_payload, "cfg"),
        (transformer_payload, "cfg"),
        (robomimic_payload, "config"),
    ],
)
def test_settings_of_a_wrong_kind_are_one_line(tmp_path: Path, maker: Any, key: str) -> None:
    """Any setting may be anything: 60 of them are, one at a time."""
    rng = random.Random(0)
    payload, _ = maker()
    config = OmegaConf.to_container(payload[key]) if key == "cfg" else json.loads(payload[key])
    rest = {k: v for k, v in payload.items() if k not in ("model", "state_dicts", key)}
    every = {key: config} | rest
    for path in rng.choices(list(places(every)), k=60):
        changed = payload | replaced(every, path, rng.choice(ODD))
        if key == "config" and not isinstance(changed[key], str):
            changed[key] = json.dumps(changed[key])
        torch.save(changed, tmp_path / "model.ckpt")
        one_line_or_fine(tmp_path / "model.ckpt")


@pytest.mark.parametrize("layout", ["processors", "shapes", "multi_task_dit"])
def test_lerobots_files_likewise(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rng = random.Random(0)
    language = Language(INSTRUCTION) if layout == "multi_task_dit" else NOTHING_SAID
    if layout == "multi_task_dit":
        pytest.importorskip("tokenizers")
        write_dit(tmp_path / "p")
    else:
        write_lerobot(tmp_path / "p", layout)
    for file in sorted(tmp_path.glob("*/*.json")):
        text = file.read_text()
        value = json.loads(text)
        for path in rng.choices(list(places(value)), k=25):
            file.write_text(json.dumps(replaced(value, path, rng.choice(ODD))))
            one_line_or_fine(tmp_path / "p", language)
        file.write_text(text)


def nested(levels: int, pair: bytes = b"\x86") -> bytes:
    """A tuple of two tuples of two tuples ..., each made once: ``2 ** levels`` leaves."""
    return b"K\x01" + b"".join(b"2" + pair for _ in range(levels))


def list_of(levels: int) -> bytes:
    """The same of lists."""
    return b"K\x01" + b"".join(b"2\x86q\x00h\x00\x85" for _ in range(levels))


HEAD = b"\x80\x02"
MANY_PAIRS = b"](" + b"".join(b"K" + bytes([i]) + b"K\x00\x86" for i in range(200)) + b"eq\x01"
ORDERED = b"ccollections\nOrderedDict\nq\x02"
WORK = {
    "a tuple as a key": HEAD + b"}" + nested(60) + b"K\x00s.",
    "tuples as keys of many": HEAD + b"}(" + nested(60) + b"K\x00u.",
    "a dict of a mark": HEAD + b"(" + nested(60) + b"K\x00d.",
    "a set of tuples": b"\x80\x04\x8f(" + nested(60) + b"\x90.",
    "a frozen set of tuples": b"\x80\x04(" + nested(60) + b"\x91.",
    "an ordered dict of pairs": HEAD + ORDERED + b"](" + nested(60) + b"K\x00\x86e\x85R.",
    "a list repeated": HEAD + list_of(80) + b".",
    "a value repeated": HEAD + b"}X\x01\x00\x00\x00a" + nested(60) + b"s.",
    "itself": HEAD + b"]q\x00h\x00a.",
    "very deep": HEAD + b"]" * 500 + b"a" * 499 + b".",
    "countless operations": HEAD + b"K\x010" * 1_500_000 + b"N.",
    "one list read again and again": HEAD
    + MANY_PAIRS
    + ORDERED
    + b"h\x02h\x01\x85R0" * 60_000
    + b"N.",
    "numbers as keys": HEAD
    + b"}("
    + b"".join(b"J" + struct.pack("<i", i) + b"K\x00" for i in range(60_000))
    + b"u.",
    "a long key": HEAD + b"}X" + struct.pack("<I", 5000) + b"a" * 5000 + b"K\x00s.",
}


@pytest.mark.parametrize("name", WORK)
def test_a_small_file_does_not_make_much_work(tmp_path: Path, name: str) -> None:
    """Work, not only memory, is bounded: an honest checkpoint takes thousands of operations."""
    refused(program(tmp_path / "work.ckpt", WORK[name]), "refused|damaged")


def test_texts_and_numbers_are_keys() -> None:
    """What optimisers and configs have is read as before."""
    content = {"a": {0: [1.5, None], True: (1, 2)}, "b": [{"c": "d"}] * 1000, None: {1.5: []}}
    with tempfile.TemporaryDirectory() as folder:
        path = program(Path(folder, "ok.ckpt"), pickle.dumps(content, 2))
        with open_archive(path) as archive:
            assert archive.content == content

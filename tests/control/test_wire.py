"""Messages: round trips, and every kind of nonsense is a WireError."""

import os
import random
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.control import Plan, PlanRequest, PolicySpec
from pcm_policy.control.wire import (
    WireError,
    chunk_message,
    decode,
    encode,
    encode_array,
    plan_message,
    read_chunk,
    read_plan,
)

SPEC = PolicySpec(3, 2, 10, 2, 4, 10.0, (0.0,) * 3, (1.0,) * 3, (0.0,) * 2, (1.0,) * 2)
REQUEST = PlanRequest(
    id=4,
    seed=7,
    tick=2,
    clock=0.0,
    obs=np.arange(6, dtype=np.float32).reshape(2, 3),
    prefix=np.ones((3, 2), np.float32),
    past=1,
    executed=4,
    warm_start="trajectory",
    couple_noise=True,
)


def test_round_trips() -> None:
    request, after = read_plan(decode(encode(plan_message(REQUEST, 3))), SPEC)
    assert after == 3
    for name, value in vars(REQUEST).items():
        np.testing.assert_array_equal(getattr(request, name), value, err_msg=name)
    plan = Plan(4, np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32), rounds=2)
    back = read_chunk(decode(encode(chunk_message(plan, {"solve_ms": 1.0}))), SPEC)
    np.testing.assert_array_equal(back.actions, plan.actions)
    assert (back.id, back.rounds, back.bound, back.certified) == (4, 2, float("inf"), False)


def valid() -> dict[str, Any]:
    return msgpack.unpackb(encode(plan_message(REQUEST, None)))


def array(**changes: Any) -> dict[str, Any]:
    return encode_array(REQUEST.obs) | changes


BROKEN: dict[str, tuple[str, Any]] = {
    "no obs": ("obs", None),
    "obs a list": ("obs", [1.0, 2.0]),
    "wrong dtype": ("obs", array(dtype="|O")),
    "dtype a list": ("obs", array(dtype=["<f4"])),
    "wrong shape": ("obs", array(shape=[3, 2])),
    "negative shape": ("obs", array(shape=[-2, -3])),
    "huge shape": ("obs", array(shape=[2, 2**62])),
    "float shape": ("obs", array(shape=[2.0, 3.0])),
    "deep shape": ("obs", array(shape=[1] * 100)),
    "short data": ("obs", array(data=b"123")),
    "text data": ("obs", array(data="x" * 24)),
    "nan": ("obs", encode_array(np.full((2, 3), np.nan, np.float32))),
    "overflows float32": ("obs", encode_array(np.full((2, 3), 1e300))),
    "extra key": ("obs", array(more=1)),
    "prefix too long": ("prefix", encode_array(np.ones((11, 2), np.float32))),
    "prefix too short": ("prefix", encode_array(np.ones((0, 2), np.float32))),
    "prefix shape": ("prefix", encode_array(np.ones((2, 3), np.float32))),
    "id missing": ("id", None),
    "id a bool": ("id", True),
    "id negative": ("id", -1),
    "id huge": ("id", 2**63),
    "seed text": ("seed", "7"),
    "tick float": ("tick", 1.5),
    "past": ("past", 9),
    "warm": ("warm_start", "hot"),
    "warm a map": ("warm_start", "x" * 1000),
    "flag": ("couple_noise", 1),
    "after": ("after", "3"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_fields(kind: str) -> None:
    key, value = BROKEN[kind]
    with pytest.raises(WireError):
        read_plan(valid() | {key: value}, SPEC)


def test_not_even_a_message() -> None:
    deep = b"\x91" * 5000 + b"\x01"
    for data in (b"", b"\xc1", "text", None, msgpack.packb(7), msgpack.packb({1: 2}), deep):
        with pytest.raises(WireError):
            decode(data)
    for data in (b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", encode({"type": "x"})[:-1]):
        with pytest.raises(WireError):
            decode(data)


@settings(max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 10**6))
def test_fuzz(noise: bytes, seed: int) -> None:
    """Random bytes, and valid messages with random bytes in them."""
    spoiled = bytearray(encode(plan_message(REQUEST, 3)))
    place = random.Random(seed).randrange(len(spoiled))
    spoiled[place : place + len(noise) % 8] = noise[:8]
    for data in (noise, bytes(spoiled), os.urandom(30)):
        try:
            request, _ = read_plan(decode(data), SPEC)
        except WireError:
            continue
        assert request.obs.shape == (2, 3)
        assert np.isfinite(request.obs).all()

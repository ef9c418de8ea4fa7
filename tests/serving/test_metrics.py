"""``/metrics`` is what Prometheus reads, and a drain lets nobody in and nobody down."""

import asyncio
import re
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus

from pcm_policy.serving.metrics import CONTENT_TYPE, metrics
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.server import PolicyServer
from tests.serving.test_server_ends import Held, greeted, message, play, reply
from tests.serving.told_to_end import SCENARIOS

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{{LABEL}(?:,{LABEL})*\}})? (-?[0-9.e+-]+)")
HEALTH = {"status": "ok", "policy": "mine", "clients": 2, "plans": 7, "uptime_s": 1.5}


@given(policy=st.text(max_size=20), errors=st.dictionaries(st.text(max_size=8), st.integers(0)))
def test_every_line_is_of_the_format(policy: str, errors: dict[str, int]) -> None:
    given = HEALTH | {"policy": policy, "errors": errors}
    given |= {"frames": {"seen": 3, "dropped": 1, "late": 0, "encode_ms": {}}}
    text = metrics(given, "pcm 2", {1: 0.5, 4: 1.25})
    assert text.endswith("\n")
    typed: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in typed
            typed[name] = kind
        elif not line.startswith("# HELP "):
            found = SAMPLE.fullmatch(line)
            assert found, line
            assert (typed[found[1]] == "counter") == found[1].endswith("_total")
    assert 'pcm_serve_solve_seconds{batch="4"} 0.00125' in text
    assert 'pcm_serve_frames_total{fate="dropped"} 1' in text


def fetch(uri: str, path: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(uri.replace("ws:", "http:") + path, timeout=5) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, "", error.read().decode()


def test_a_drain() -> None:
    """Who is there gets plans and the end comes when the last one hangs up; nobody comes in."""

    async def scenario(uri: str, held: Held, task: Any, served: PolicyServer) -> None:
        held.go.release(99)
        robot = await greeted(uri)
        drain = asyncio.create_task(served.drain())
        await robot.send(message(1))
        assert (await reply(robot))["type"] == "chunk"
        with pytest.raises(InvalidStatus, match="503"):
            await greeted(uri)
        code, _, text = await asyncio.to_thread(fetch, uri, "/healthz")
        assert (code, "draining" in text) == (503, True)
        code, kind, text = await asyncio.to_thread(fetch, uri, "/metrics")
        assert (code, kind) == (200, CONTENT_TYPE)
        for line in ("draining 1.0", "clients 1", "plans_total 1"):
            assert f"pcm_serve_{line}\n" in text
        assert 'pcm_serve_errors_total{code="draining"} 1' in text
        assert not drain.done()
        await robot.close()
        await asyncio.wait_for(drain, 10)

    play(scenario, ServeOptions(port=0, batching=False, drain_s=1000.0))


def test_a_drain_has_an_end() -> None:
    async def scenario(uri: str, held: Held, task: Any, served: PolicyServer) -> None:
        await greeted(uri)
        await asyncio.wait_for(served.drain(), 10)
        assert served.clients == 1

    play(scenario, ServeOptions(port=0, batching=False, drain_s=0.05))


def test_what_signals_do() -> None:
    command = [sys.executable, "-m", "tests.serving.told_to_end"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line in SCENARIOS] == list(SCENARIOS)

"""Several policy processes behind one port: real processes, real clients, and kills."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.cli.main import run_command
from pcm_policy.control import PlanRequest
from pcm_policy.control.client import Link
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.serving import fleet
from pcm_policy.serving.door import Door, bound, hand
from pcm_policy.serving.metrics import families, labelled, merged, written
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import Planner
from tests.serving.test_metrics import HEALTH, SAMPLE, fetch
from tests.serving.test_server import BIN, POLICY, SERVED, health, request, serving


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    """Return the policy processes of a server, which are not the resource tracker of Python's."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == pid and b"spawn_main" in words:
            found.append(int(folder.name))
    return sorted(found)


def serving_processes(uri: str) -> list[str]:
    return [one["status"] for one in health(uri)["processes"]]


@contextmanager
def linked(uri: str, count: int) -> Iterator[list[Link]]:
    links = [Link(uri) for _ in range(count)]
    try:
        for link in links:
            link.open()
        yield links
    finally:
        for link in links:
            link.close()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[subprocess.Popen[str], str]]:
    with serving("serve.processes=2", "serve.max_clients=6") as (process, uri):
        yield process, uri
        assert process.poll() is None, "the server died"


def test_robots_are_shared_out_and_get_their_plans(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    """Warm starts need what the last solve left: a connection stays with its process."""
    _, uri = served
    policy = DiffusionPolicy.from_pretrained(POLICY)
    planner = Planner(policy, policy.solver({}))
    with linked(uri, 4) as links:
        for number, link in enumerate(links):
            memory = own = None
            for tick in range(2):
                asked = request(10 * number + tick, warm_start="chunk", executed=8 * tick)
                found = link.ask(PlanRequest(**vars(asked) | {"memory": memory}))
                wanted = planner.plan(PlanRequest(**vars(asked) | {"memory": own}))
                np.testing.assert_allclose(found.actions, wanted.actions, atol=0.05)
                memory, own = found.memory, wanted.memory
        told = health(uri)
        assert [one["clients"] for one in told["processes"]] == [2, 2]
        assert (told["clients"], told["plans"], told["status"]) == (4, 8, "ok")
        code, _, text = fetch(uri, "/metrics")
        assert code == 200
        for process in "01":
            assert f'pcm_serve_plans_total{{process="{process}"}} 4\n' in text
        assert "pcm_serve_processes 2\n" in text
        names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
        assert len(set(names)) == len(names)


def test_no_more_clients_than_all_together_may_be(
    served: tuple[subprocess.Popen[str], str],
) -> None:
    _, uri = served
    until(lambda: health(uri)["clients"] == 0)
    with linked(uri, 6), pytest.raises(PcmError, match=r"full \(503\)"):
        Link(uri).open()
    until(lambda: health(uri)["clients"] == 0)
    with linked(uri, 6):
        assert health(uri)["errors"]["full"] == 1


def test_a_process_that_dies_is_started_again(served: tuple[subprocess.Popen[str], str]) -> None:
    process, uri = served
    until(lambda: health(uri)["clients"] == 0)
    with linked(uri, 4) as links:
        victims = children(process.pid)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        time.sleep(0.2)
        lost: dict[Link, str] = {}
        for number, link in enumerate(links):
            try:
                link.ask(request(number))
            except PcmError as error:
                lost[link] = str(error)
        assert len(lost) == 2
        assert all("lost" in why for why in lost.values())
        for number, link in enumerate(lost):  # the other process takes them at once
            time.sleep(0.1)
            assert np.isfinite(link.ask(request(number)).actions).all()
        until(lambda: serving_processes(uri) == ["ok", "ok"])
        assert health(uri)["restarts"] == 1
        assert "pcm_serve_restarts_total 1\n" in fetch(uri, "/metrics")[2]
        assert children(process.pid) != victims
        with linked(uri, 2):  # both go to the new one, which has none
            assert sorted(one["clients"] for one in health(uri)["processes"]) == [2, 4]


def test_sigterm_lets_the_robots_of_all_processes_finish() -> None:
    words = ("serve.processes=2", "serve.drain_s=1000")
    with serving(*words) as (process, uri), linked(uri, 2) as links:
        there = children(process.pid)
        process.send_signal(signal.SIGTERM)
        until(lambda: fetch(uri, "/healthz")[0] == 503)
        for number, link in enumerate(links):
            assert np.isfinite(link.ask(request(number)).actions).all()
        with pytest.raises(PcmError, match="503"):
            Link(uri).open()
        links[0].close()
        until(lambda: len(children(process.pid)) == 1)
        assert process.poll() is None
        links[1].close()
        assert process.wait(10) == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in there)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])  # SIGTERM is above
def test_none_outlives_the_end(number: signal.Signals) -> None:
    with serving("serve.processes=2") as (process, uri), linked(uri, 1) as links:
        there = children(process.pid)
        process.send_signal(number)
        assert process.wait(20) == (0 if number != signal.SIGKILL else -9)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in there), 5)
        with pytest.raises(PcmError, match="lost"):
            links[0].ask(request(1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("serve.protocol=openpi",), "say what clients send"),
        (("policy=/nowhere",), "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_once(words: tuple[str, ...], message: str) -> None:
    command = [str(BIN / "pcm-serve"), *SERVED, "serve.port=0", "serve.processes=2", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_no_processes_are_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command("serve", argv=[*SERVED, "serve.processes=0"])
    assert ended.value.code == 2
    assert "serve.processes=0" in capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error_before_any_process() -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("a process was started")

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = fleet.Fleet(never, ServeOptions(port=port, processes=2))
        with pytest.raises(PcmError, match=f"cannot listen on 127.0.0.1:{port}"):
            asyncio.run(served.run())


def test_a_process_that_cannot_start_says_how_it_ended() -> None:
    def start(door: socket.socket, line: socket.socket) -> Any:
        from multiprocessing import get_context

        process = get_context("spawn").Process(target=os._exit, args=(7,))
        process.start()
        return process

    served = fleet.Fleet(start, ServeOptions(port=0, processes=2))
    with pytest.raises(PcmError, match=r"policy process 0 died \(exit code 7\) at its start"):
        asyncio.run(served.run())


def test_a_door_gives_what_was_handed_through_it() -> None:
    ours, theirs = socket.socketpair()
    (listener,) = bound("127.0.0.1", 0)
    with ours, Door(fileno=theirs.detach()) as door, listener:
        door.setblocking(False)
        with pytest.raises(BlockingIOError):
            door.accept()
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client:
            listener.setblocking(True)
            connection, _ = listener.accept()
            with connection:
                hand(ours, connection)
            taken, address = door.accept()
            with taken:
                assert address == client.getsockname()
                taken.sendall(b"x")
                assert client.recv(1) == b"x"
        ours.close()
        with pytest.raises(ConnectionAbortedError):
            door.accept()


def test_how_a_client_begins_is_looked_at_and_left() -> None:
    async def scenario(*parts: bytes) -> bytes:
        client, server = socket.socketpair()
        with client, server:
            server.setblocking(False)
            looking = asyncio.create_task(fleet._beginning(server))
            for part in parts:
                client.sendall(part)
                await asyncio.sleep(0.02)
            begin = await asyncio.wait_for(looking, 5)
            assert server.recv(99) == b"".join(parts)
            return begin

    assert asyncio.run(scenario(b"GET /me", b"tr", b"ics HTTP/1.1\r\n")) == b"GET /metrics "
    assert asyncio.run(scenario(b"GET / HTTP/1.1\r\n")) == b"GET / HTTP/1."
    assert asyncio.run(scenario(b"\x16\x03")) == b"\x16\x03"


def test_metrics_of_processes_are_one_text() -> None:
    told = HEALTH | {"errors": {"busy": 2}}
    parts = [labelled(families(told, "pcm 2", {1: 0.5}), process=number) for number in "01"]
    text = written(merged(*parts))
    assert text.count("# TYPE pcm_serve_clients gauge") == 1
    assert text.count('pcm_serve_errors_total{process="1",code="busy"} 2') == 1
    for line in text.splitlines():
        assert line.startswith("#") or SAMPLE.fullmatch(line), line


def test_what_processes_say_is_added_up() -> None:
    found = fleet.together({0: HEALTH, 1: None, 2: HEALTH}, draining=False)
    assert found == {"status": "ok", "policy": "mine", "clients": 4, "plans": 14}
    assert fleet.together({0: None}, draining=False)["status"] == "starting"
    assert fleet.together({0: HEALTH}, draining=True)["status"] == "draining"

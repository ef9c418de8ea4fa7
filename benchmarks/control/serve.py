"""Round trips to the policy server: several clients on loopback, for a while.

    python -m benchmarks.control.serve [--clients 8] [--seconds 600] [--hz 10]
    python -m benchmarks.control.serve --processes 2 --kill-after 20     # kills one of them

Every client sends a held-out observation at its rate, staggered, and waits for the chunk. Reported:
round trip as the client sees it, the server's share of it, batch sizes, and the memory of the
server at the beginning and at the end, of all its processes together. A request that failed is an
error, and its client connects again.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import RESULTS
from pcm_policy.control import PlanRequest
from pcm_policy.control.client import Link
from pcm_policy.control.times import Times
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by
from pcm_policy.policy.held_out import held_out_observations

POLICY = "released/pusht_mlp"


def drive(uri: str, number: int, options: argparse.Namespace, out: dict[str, Any]) -> None:
    """Be one client."""
    obs = held_out_observations(POLICY).numpy()
    link, period = Link(uri), 1 / options.hz
    none = np.zeros((0, link.open().action_dim), np.float32)
    begin = time.perf_counter() + period * number / options.clients
    for i in range(round(options.seconds * options.hz)):
        time.sleep(max(begin + i * period - time.perf_counter(), 0))
        request = PlanRequest(i, number, i, 0.0, obs[(7 * number + i) % len(obs)], none)
        start = time.perf_counter()
        try:
            link.ask(request)
        except ValueError:
            out["errors"] += 1
            continue
        spent = (time.perf_counter() - start) * 1e3
        with out["lock"]:
            out["round_trip"].add(spent)
            out["server"].add(link.timing["total_ms"])
            out["queue"].add(link.timing["queue_ms"])
            out["solve"].add(link.timing["solve_ms"])
            out["batches"][int(link.timing["batch"])] += 1
    link.close()


def policy_processes(pid: int) -> list[int]:
    """Return the policy processes of a server, which are none where it is one itself."""
    there = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    spawned = [
        child for child in there if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return [int(child) for child in spawned]


def memory_mib(pid: int) -> float:
    """Return the resident memory of a server and its processes."""
    pages = [
        Path(f"/proc/{one}/statm").read_text().split()[1] for one in (pid, *policy_processes(pid))
    ]
    return sum(map(int, pages)) * 4096 / 2**20


def health_of(uri: str) -> dict[str, Any]:
    """Return what the server says of itself."""
    with urllib.request.urlopen(uri.replace("ws:", "http:") + "/healthz", timeout=10) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


def main() -> None:
    """Run and write ``serve.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hz", type=float, default=10.0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kill-after", type=int, help="seconds; one process is killed then")
    parser.add_argument("--output", type=Path, default=RESULTS / "serve")
    options = parser.parse_args()
    size = round(options.clients * options.seconds * options.hz)
    out: dict[str, Any] = {k: Times(size) for k in ("round_trip", "server", "queue", "solve")}
    out |= {"lock": threading.Lock(), "batches": Counter(), "errors": 0}
    script = Path(sys.executable).parent / "pcm-serve"
    words = [str(script), f"policy={POLICY}", "serve.port=0", "threads=1", "device=cpu"]
    words.append(f"serve.processes={options.processes}")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        uri = server.stdout.readline().split(" at ")[1].strip()
        threads = [
            threading.Thread(target=drive, args=(uri, n, options, out))
            for n in range(options.clients)
        ]
        first = memory_mib(server.pid)
        for thread in threads:
            thread.start()
        for second in tqdm(range(int(options.seconds)), desc="serve", unit="s", disable=None):
            if second == options.kill_after:
                os.kill(policy_processes(server.pid)[0], signal.SIGKILL)
            time.sleep(1)
        for thread in threads:
            thread.join()
        last = memory_mib(server.pid)
        health = health_of(uri)
        server.terminate()
    report = {
        **made_by(),
        "policy": POLICY,
        "clients": options.clients,
        "hz": options.hz,
        "seconds": options.seconds,
        "processes": options.processes,
        "killed_after_s": options.kill_after,
        "errors": out["errors"],
        "health": health,
        "milliseconds": {k: out[k].summary() for k in ("round_trip", "server", "queue", "solve")},
        "batches": {str(k): v for k, v in sorted(out["batches"].items())},
        "server_memory_mib": {"first": first, "last": last},
        "hardware": hardware(torch.device("cpu")),
    }
    write_text(options.output / "serve.json", to_json(report))
    print(to_json(report))


if __name__ == "__main__":
    main()

"""Clients of openpi's, in a Python that has ``openpi-client`` and nothing of ours.

    python -m benchmarks.control.openpi_clients URI [--clients 8] [--seconds 60] [--hz 1]

Every client sends an observation with a camera at its rate, staggered, and waits for the chunk; one
more sends what no server can read, once a second. Prints all times in milliseconds as JSON.
``benchmarks/control/openpi.py`` runs it.
"""

import argparse
import json
import threading
import time

import numpy as np

BAD = (b"", b"\xc1", b"\x81\xa5state\xa1x", b"\xdf\xff\xff\xff\xff", b"\x91" * 3000)


def drive(uri, number, options, out, lock):
    """Be one client."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    rng, policy = np.random.default_rng(number), WebsocketClientPolicy(uri)
    seen = [
        {
            "observation/state": rng.uniform(-1, 1, 2),
            "observation/image": rng.integers(0, 256, (96, 96, 3), np.uint8),
            "prompt": "push the T",
        }
        for _ in range(16)
    ]
    period = 1 / options.hz
    begin = time.perf_counter() + period * number / options.clients
    for i in range(round(options.seconds * options.hz)):
        time.sleep(max(begin + i * period - time.perf_counter(), 0))
        start = time.perf_counter()
        try:
            reply = policy.infer(seen[i % 16])
        except RuntimeError as error:
            with lock:
                out["errors"].append(str(error)[-200:])
            continue
        spent = {"round_trip_ms": (time.perf_counter() - start) * 1e3, **reply["server_timing"]}
        with lock:
            out["answers"].append(spent)


def spoil(uri, options, out, ended):
    """Send what is no observation, and count the answers."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = None
    for i in range(round(options.seconds)):
        if ended.wait(1.0):
            return
        try:
            policy = policy or WebsocketClientPolicy(uri)
            policy._ws.send(BAD[i % len(BAD)])
            out["refused"] += isinstance(policy._ws.recv(), str)
        except Exception:  # closed after too many errors, as it should be
            policy, out["closed"] = None, out["closed"] + 1


def main():
    """Run all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("uri")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hz", type=float, default=1.0)
    options = parser.parse_args()
    out, lock, ended = {"answers": [], "errors": []}, threading.Lock(), threading.Event()
    bad = {"refused": 0, "closed": 0}
    spoiler = threading.Thread(target=spoil, args=(options.uri, options, bad, ended))
    clients = [
        threading.Thread(target=drive, args=(options.uri, number, options, out, lock))
        for number in range(options.clients)
    ]
    for thread in (spoiler, *clients):
        thread.start()
    for thread in clients:
        thread.join()
    ended.set()
    spoiler.join()
    print(json.dumps(out | {"malformed": bad}))


if __name__ == "__main__":
    main()

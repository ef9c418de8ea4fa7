"""openpi's clients at ``pcm-serve serve.protocol=openpi``: several with a camera, for a while.

    export PCM_OPENPI_PYTHON=PYTHON
    python -m benchmarks.control.openpi [--clients 8] [--seconds 600]

That Python has ``openpi-client`` 0.1.2. The policy is Push-T's with a camera, with random weights:
times do not depend on them. One more client sends malformed messages. Reported: round trip as the
clients see it, the server's own timing, batch sizes, errors, and the server's memory after a tenth
of the time and at the end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS
from benchmarks.control.cameras import make
from benchmarks.control.serve import memory_mib
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by
from pcm_policy.measure.statistics import percentiles

TIMES = ("round_trip_ms", "infer_ms", "queue_ms", "encode_ms", "total_ms")
ENTRIES = (
    "serve.observe.images={image: observation/image}",
    "serve.observe.state=[observation/state]",
    "serve.observe.history=steps",
)


def soak(python: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Serve a policy and let the clients at it; returns what they and the server saw.

    Args:
        python: has ``openpi-client``.
        folder: of the policy.
        options: of the command line.
    """
    script = Path(sys.executable).parent / "pcm-serve"
    words = [str(script), f"policy={folder}", "serve.port=0", "threads=1", "device=cpu"]
    words += ["serve.protocol=openpi", *ENTRIES]
    client = Path(__file__).with_name("openpi_clients.py")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        uri = server.stdout.readline().split(" at ")[1].strip()
        asked = [f"--{name}={getattr(options, name)}" for name in ("clients", "seconds", "hz")]
        with subprocess.Popen(
            [python, "-W", "ignore", str(client), uri, *asked], stdout=subprocess.PIPE, text=True
        ) as clients:
            time.sleep(options.seconds / 10)
            first = memory_mib(server.pid)
            said, _ = clients.communicate()
        last = memory_mib(server.pid)
        server.terminate()
    found: dict[str, Any] = json.loads(said)
    answers = found["answers"]
    return {
        "answers": len(answers),
        "errors": len(found["errors"]),
        "first_error": next(iter(found["errors"]), None),
        "malformed": found["malformed"],
        "milliseconds": {key: percentiles([one[key] for one in answers]) for key in TIMES},
        "batches": dict(sorted(Counter(str(one["batch"]) for one in answers).items())),
        "server_memory_mib": {"after a tenth": first, "at the end": last},
        "server_exit": server.returncode,
    }


def main() -> None:
    """Run and write ``openpi.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--hz", type=float, default=1.0)
    parser.add_argument("--output", type=Path, default=RESULTS / "openpi")
    options = parser.parse_args()
    python = os.environ.get("PCM_OPENPI_PYTHON", "")
    if not python:
        raise PcmError("PCM_OPENPI_PYTHON names no Python that has openpi-client")
    with tempfile.TemporaryDirectory() as folder:
        make("pusht").save_pretrained(Path(folder) / "policy")
        found = soak(python, Path(folder) / "policy", options)
    asked = {"clients": options.clients, "hz": options.hz, "seconds": options.seconds}
    report = {**made_by(), **asked, **found, "hardware": hardware(torch.device("cpu"))}
    write_text(options.output / "openpi.json", to_json(report))
    print(to_json(report))


if __name__ == "__main__":
    main()

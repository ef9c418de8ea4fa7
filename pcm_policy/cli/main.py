"""The commands' entry points; a command imports what it needs and no more.

What each does is a function of one resolved config, in ``cli_*.py``, for Python to call as well.
"""

import platform
import sys
from importlib import metadata
from pathlib import Path

import torch

from pcm_policy.cli.compose import run_command
from pcm_policy.measure.tables import table


def train() -> None:
    """Entry point of ``pcm-train``."""
    from pcm_policy.cli.train import train_main

    run_command("train", train_main)


def distill() -> None:
    """Entry point of ``pcm-distill``."""
    from pcm_policy.cli.train import distill_main

    run_command("distill", distill_main)


def evaluate() -> None:
    """Entry point of ``pcm-eval``."""
    from pcm_policy.cli.eval import eval_main

    run_command("eval", eval_main)


def bench() -> None:
    """Entry point of ``pcm-bench``, ``pcm-bench loop`` and ``pcm-bench tune``."""
    if sys.argv[1:2] == ["loop"]:
        from pcm_policy.cli.control import loop

        return loop(sys.argv[2:])
    from pcm_policy.cli.bench import bench_main, tune_main

    if sys.argv[1:2] == ["tune"]:
        return run_command("tune", tune_main, sys.argv[2:], title="bench tune")
    run_command("bench", bench_main)


def data() -> None:
    """Entry point of ``pcm-data``: ``pcm-data COMMAND PATH [TARGET] [key=value ...]``."""
    from pcm_policy.cli.data import data_main

    words = sys.argv[1:]
    named: list[str] = []
    for key in ("command", "path", "target"):
        if words and "=" not in words[0] and not words[0].startswith("-"):
            value = words.pop(0).replace("\\", "\\\\").replace("'", "\\'")
            named.append(f"{key}='{value}'")
    run_command("data", data_main, named + words)


def info() -> None:
    """Entry point of ``pcm-info``: versions, device, what is installed."""
    rows = [["python", platform.python_version()], ["platform", platform.platform()]]
    for name in ("pcm_policy", "torch", "numpy", "accelerate", "safetensors", "zarr", "hydra-core"):
        rows.append([name, metadata.version(name)])
    for name, extra in (
        ("gymnasium", ""),
        ("gym-pusht", "pusht"),
        ("metaworld", "metaworld"),
        ("robomimic", "robomimic"),
        ("robosuite", "robomimic"),
        ("h5py", "convert"),
        ("diffusers", "test"),
    ):
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, f"not installed: pip install 'pcm_policy[{extra}]'"])
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows += [["CPU threads", str(torch.get_num_threads())], ["CUDA device", cuda]]
    released = Path(__file__).parents[1] / "released"
    rows.append(["released", ", ".join(f"released/{p.name}" for p in sorted(released.glob("*/")))])
    print(table(["what", "version"], rows))


COMMANDS = {"train": train, "distill": distill, "eval": evaluate, "bench": bench, "data": data}

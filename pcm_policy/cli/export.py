"""``pcm-export``: a solve as torch.export, AOTInductor and ONNX packages, or a robot's folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pcm_policy.cli.compose import plain, writable
from pcm_policy.cli.settings.others import ExportSettings
from pcm_policy.export import example, export
from pcm_policy.files import refuse_existing, to_json, write_file, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.rows import certificate, described
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy


def export_main(config: ExportSettings) -> dict[str, Any]:
    """Write the packages, an example and a report; returns what ``export.json`` holds."""
    refuse_existing(Path(config.output_dir, "export.json"), config.overwrite)
    output = writable(config.output_dir)
    policy = DiffusionPolicy.from_pretrained(config.policy)
    solver = policy.solver(plain(config.solver))
    inputs = example(policy, solver, config.batch, config.seed)
    formats = list(config.formats)
    chunk, found = export(policy, solver, output, formats, inputs, config.calls, config.control)
    tensors = {k: v.contiguous() for k, v in (inputs | {"chunk": chunk}).items()}
    write_file(output / "example.safetensors", lambda path: save_file(tensors, path))
    c = policy.config
    report = {
        "policy": str(config.policy),
        "solver": described(solver) | certificate(policy, solver),
        "inputs": {name: list(value.shape) for name, value in inputs.items()},
        "output": {"chunk": list(chunk.shape)},
        "executed_steps": [c.obs_steps - 1, c.obs_steps - 1 + c.action_steps],
        "torch": torch.__version__,
        "calls": config.calls,
        **conditions(policy),
        "packages": {name: asdict(one) for name, one in found.items()},
    }
    write_text(output / "export.json", to_json(report))
    rows = [
        [name, one.file or "-", f"{one.difference:.1e}", f"{one.p50_ms:.2f} / {one.p95_ms:.2f}"]
        for name, one in found.items()
    ]
    print(solver.label)
    print(table(["package", "file", "difference", "p50 / p95 ms"], rows))
    print(Path(output, "export.json"))
    return report

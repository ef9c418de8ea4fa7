"""``pcm-info``: versions, device, and what is installed."""

import platform
from importlib import metadata
from pathlib import Path

import torch

from pcm_policy.cli.settings.others import VersionsSettings
from pcm_policy.measure.tables import table

NEEDED = ("pcm_policy", "torch", "numpy", "accelerate", "safetensors", "zarr", "hydra-core")
OPTIONAL = {
    "gymnasium": "",
    "gym-pusht": "pusht",
    "metaworld": "metaworld",
    "gymnasium-robotics": "adroit",
    "gym-aloha": "aloha",
    "robomimic": "robomimic",
    "robosuite": "robomimic",
    "h5py": "convert",
    "onnxruntime": "export",
    "openvino": "openvino",
    "diffusers": "test",
}


def info_main(config: VersionsSettings) -> None:
    """Print versions of this package and of what it uses."""
    rows = [["python", platform.python_version()], ["platform", platform.platform()]]
    rows += [[name, metadata.version(name)] for name in NEEDED]
    for name, extra in OPTIONAL.items():
        try:
            rows.append([name, metadata.version(name)])
        except metadata.PackageNotFoundError:
            rows.append([name, f"not installed: pip install 'pcm_policy[{extra}]'"])
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows += [["CPU threads", str(torch.get_num_threads())], ["CUDA device", cuda]]
    released = Path(__file__).parents[1] / "released"
    rows.append(["released", ", ".join(f"released/{p.name}" for p in sorted(released.glob("*/")))])
    print(table(["what", "version"], rows))

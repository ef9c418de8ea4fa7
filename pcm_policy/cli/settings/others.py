"""Settings of ``pcm-import``, ``pcm-export`` and ``pcm-info``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pcm_policy.cli.settings.common import Common
from pcm_policy.cli.settings.solver import SolverSection
from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.settings import Count, Positive, Seed


@dataclass(frozen=True, kw_only=True)
class ImportSettings(Common):
    """Settings of ``pcm-import``.

    Attributes:
        source: LeRobot folder, run or OWNER/NAME, diffusion_policy .ckpt, robomimic .pth
        output_dir: gets policy/ and import.json
        data: demonstrations; 256 of their observations go into the folder, for pcm-bench
        obs_fields: fields of the observation in your demonstrations; null: as in the checkpoint
        action_field: field of the action; null: as in the checkpoint
        control_hz: rate of the actions; null: as in the checkpoint
        name: of the task, for messages and cards
        instruction: what a multi_task_dit policy is told to do, LeRobot's task; fixed at import
        clip: of such a policy: folder with config.json and tokenizer.json of its CLIP
        self_check: compare with the original implementation, where it is installed
        original_python: Python of an environment that has the original; null: this one
    """

    source: str
    output_dir: str
    data: str | None = None
    obs_fields: tuple[str, ...] | None = None
    action_field: str | None = None
    control_hz: Positive | None = None
    name: str | None = None
    instruction: str | None = None
    clip: str | None = None
    self_check: bool = True
    original_python: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportSettings(Common):
    """Settings of ``pcm-export``.

    Attributes:
        policy: folder of a policy, or a released one
        output_dir: gets the packages, example.safetensors and export.json
        solver: which solve is written; null: as the policy (or its PCM head) says
        control: of formats=[robot]: settings of the controller, with the limits of every command
        formats: which packages to write: torch.export, AOTInductor, ONNX, a robot's folder
        batch: rows of every call; the packages keep it
        calls: timed calls of each package
        seed: of the example's noise
        overwrite: replace the packages of an earlier export in output_dir
    """

    groups: ClassVar[Mapping[str, str | None]] = {"solver": "default", "control": "default"}

    policy: str = "released/pusht"
    output_dir: str
    solver: SolverSection = field(default_factory=dict)
    control: ControlSettings = field(default_factory=ControlSettings)
    formats: tuple[Literal["export", "aoti", "onnx", "robot"], ...] = ("export", "aoti", "onnx")
    batch: Count = 1
    calls: Count = 50
    seed: Seed = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.formats:
            raise PcmError("formats=[]: name a package to write, such as formats=[robot]")


@dataclass(frozen=True, kw_only=True)
class VersionsSettings(Common):
    """Settings of ``pcm-info``."""

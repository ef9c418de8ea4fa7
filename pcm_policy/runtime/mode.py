"""What a way to execute solves must be able to do."""

from abc import ABC, abstractmethod
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pcm_policy.errors import PcmError
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.inputs import Execute
from pcm_policy.runtime.precision import TYPES

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy


class Mode(ABC):
    """A way to execute solves: one object, for all policies."""

    package: ClassVar[str] = "torch"
    """What executes; its version belongs to every result."""
    prepares: ClassVar[bool] = True
    """Whether every kind and size of solve is made when it first comes."""
    own_threads: ClassVar[bool] = False
    """Whether ``runtime.threads`` are threads beside torch's."""

    def check(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> None:
        """Refuse what this mode cannot do.

        Raises:
            PcmError: it cannot run on this device, in this precision, or at all here; or another
                precision with a head that changes the network's weights.
        """
        head = policy.config.head
        if TYPES[config.precision] is not None and head is not None and head.name == "lora":
            raise PcmError(
                f"runtime.precision={config.precision}: a LoRA head needs the base's own type"
            )

    @abstractmethod
    def execute(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
        """Return what executes a policy's solves; it may be called from several threads."""

    def version(self) -> str:
        """Return the package that executes, with its version."""
        return f"{self.package} {metadata.version(self.package)}"

    def facts(self, config: RuntimeConfig, made: Execute | None) -> dict[str, Any]:
        """Return what belongs into results beside the config.

        Args:
            config: of the runtime.
            made: what :meth:`execute` returned; None if nothing was solved yet.
        """
        threads = config.threads or torch.get_num_threads()
        return {"engine": self.version(), "threads": threads}

"""How solves are executed, as settings."""

from dataclasses import dataclass
from typing import Literal, get_args

from pcm_policy.checks import flag, whole
from pcm_policy.errors import PcmError
from pcm_policy.settings import Threads

Name = Literal["auto", "eager", "compile", "graph", "onnx", "openvino"]
Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True)
class RuntimeConfig:
    """How solves are executed.

    Attributes:
        mode: ``eager``; ``compile``, torch.compile on the network; ``graph``, CUDA graphs;
            ``onnx`` and ``openvino``, ONNX Runtime and OpenVINO on a CPU; ``auto``, the fastest of
            those that there are on this machine.
        precision: of the base network alone. States, sums and the head stay as they are. float32
            leaves the weights in the policy's own type.
        tf32: let float32 matrix products and convolutions use TF32 (CUDA), for the whole process.
        threads: CPU threads of an engine; null: as many as torch has. With ``eager`` and
            ``compile`` torch itself gets so many, in the whole process.

    Raises:
        PcmError: an unknown mode or precision, or a number of threads below 1.

    Example:
        >>> from pcm_policy import DiffusionPolicy
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> policy.use(RuntimeConfig(precision="bf16"))
    """

    mode: Name = "eager"
    precision: Precision = "float32"
    tf32: bool = False
    threads: Threads | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("mode", get_args(Name)), ("precision", get_args(Precision))):
            if getattr(self, name) not in allowed:
                raise PcmError(
                    f"runtime.{name}={getattr(self, name)!r}: use one of {', '.join(allowed)}"
                )
        flag("runtime.tf32", self.tf32)
        if self.threads is not None:
            whole("runtime.threads", self.threads, 1)

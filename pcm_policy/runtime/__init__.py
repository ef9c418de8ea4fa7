"""How a solve is executed: eager, compiled, as CUDA graphs, by ONNX Runtime or OpenVINO."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcm_policy.runtime.config import RuntimeConfig
    from pcm_policy.runtime.execute import Runtime

__all__ = ["Runtime", "RuntimeConfig"]


def __getattr__(name: str) -> Any:
    """Import late: a policy imports this package's inputs, and ``execute`` the whole runtime."""
    if name == "RuntimeConfig":
        from pcm_policy.runtime.config import RuntimeConfig

        return RuntimeConfig
    if name == "Runtime":
        from pcm_policy.runtime.execute import Runtime

        return Runtime
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

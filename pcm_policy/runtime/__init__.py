"""How a solve is executed: eager, compiled, as CUDA graphs, by ONNX Runtime."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pcm_policy.runtime.execute import Runtime, RuntimeConfig

__all__ = ["Runtime", "RuntimeConfig"]


def __getattr__(name: str) -> Any:
    """Import late: a policy imports this package's inputs, and ``execute`` the whole runtime."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pcm_policy.runtime import execute

    return getattr(execute, name)

"""From a command line to one resolved config, and from a mistake to one clear line."""

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcm_policy.configs import register
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.execute import RuntimeConfig

CONFIGS = "pcm_policy.configs"
register()
T = TypeVar("T")
Command = Callable[[DictConfig], Any]


def run_command(
    name: str, command: Command, argv: Sequence[str] | None = None, title: str | None = None
) -> None:
    """Compose the config ``name`` with the command line and run ``command`` on it.

    Hydra's own flags (``--help``, ``--cfg``, ``--multirun`` ...) work as everywhere. A
    :class:`PcmError` ends the process with one line and exit code 2. Messages name the command
    ``title``, which is ``name`` unless given.
    """
    title = title or name
    arguments = list(sys.argv[1:] if argv is None else argv)

    def guarded(config: DictConfig) -> None:
        try:
            missing = sorted(k for k in OmegaConf.missing_keys(config) if k != "hydra")
            if missing:
                raise PcmError(f"give {missing[0]}=...; pcm-{title} --help shows all settings")
            if config.get("threads") is not None:
                torch.set_num_threads(config.threads)
            command(config)
        except (PcmError, OmegaConfBaseException) as error:
            _fail(title, str(error).splitlines()[0])
        except KeyboardInterrupt as error:
            resumes = name in ("train", "distill")
            own = "interrupted" + ("; resume=true continues it" if resumes else "")
            _fail(title, str(error) or own, code=130)

    if any(a.startswith("-") for a in arguments):
        sys.argv[1:] = arguments
        hydra.main(version_base="1.3", config_path=f"pkg://{CONFIGS}", config_name=name)(guarded)()
        return
    try:
        config = compose(name, arguments)
    except PcmError as error:
        _fail(title, str(error))
    guarded(config)


def compose(name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the config ``name`` with overrides such as ``train.steps=100``.

    Raises:
        PcmError: an override that does not parse, or names a key or an option that does not exist.
    """
    with hydra.initialize_config_module(version_base="1.3", config_module=CONFIGS):
        try:
            return hydra.compose(name, overrides=list(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise PcmError(_explain(name, str(error), overrides)) from error


def _explain(name: str, message: str, overrides: Sequence[str]) -> str:
    first = message.splitlines()[0]
    bad = next((o for o in overrides if f"'{o.split('=')[0]}'" in first), None)
    if bad is None:
        return f"{first} (pcm-{name} --help shows all settings)"
    key = bad.split("=")[0].lstrip("+~")
    known = _keys(hydra.compose(name))
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"pcm-{name} --help shows all settings"
    return f"unknown or invalid setting {key!r}: {hint}"


def _keys(config: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in map(str, config):
        found.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            found += _keys(config[key], f"{prefix}{key}.")
    return found


def typed(kind: type[T], section: DictConfig, name: str) -> T:
    """Turn a config section into a dataclass, checking every field's type.

    Raises:
        PcmError: a field of the wrong type, or one the dataclass does not have.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), plain(section))
        result: Any = OmegaConf.to_object(merged)
        return result  # type: ignore[no-any-return]
    except PcmError:
        raise
    except OmegaConfBaseException as error:
        raise PcmError(f"{name}: {str(error).splitlines()[0]}") from error


def plain(section: DictConfig) -> dict[str, Any]:
    """Return a section as a plain dictionary, interpolations resolved."""
    result: Any = OmegaConf.to_container(section, resolve=True)
    return result  # type: ignore[no-any-return]


def env_kwargs(task: Mapping[str, Any], demonstrate: bool = False) -> dict[str, Any]:
    """Return what a task's environment is made with.

    Args:
        task: the task section.
        demonstrate: for its scripted expert, which may act in another way than policies do.
    """
    own = dict(task.get("env_kwargs") or {})
    return own | dict(task.get("demonstrate") or {}) if demonstrate else own


def pick_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``.

    Raises:
        PcmError: a device that is not there, or an unknown name.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise PcmError(f"device={name!r}: use auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise PcmError("device=cuda: torch finds no CUDA device; use device=cpu")
    return torch.device(name)


def load_policy(config: DictConfig) -> DiffusionPolicy:
    """Load the policy that a config names, on its device and with its runtime."""
    policy = DiffusionPolicy.from_pretrained(config.policy, pick_device(config.device))
    if "runtime" in config:
        policy.use(typed(RuntimeConfig, config.runtime, "runtime"))
    return policy


def writable(folder: str) -> Path:
    """Return the output folder, made and tested for writing before any work is done.

    Raises:
        PcmError: it cannot be made or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".pcm-write-test"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise PcmError(f"output_dir={folder} cannot be written: {error}") from error
    return path


def _fail(name: str, message: str, code: int = 2) -> NoReturn:
    print(f"pcm-{name}: error: {message}", file=sys.stderr)
    raise SystemExit(code)

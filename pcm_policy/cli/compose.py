"""From a command line to one settings object, checked; what commands make of their settings."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.settings.common import TaskSettings
from pcm_policy.cli.words import Vocabulary, split
from pcm_policy.configs import register
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.execute import Runtime
from pcm_policy.settings import defaults, plain, read

__all__ = ["compose", "env_kwargs", "load_policy", "pick_device", "plain", "writable"]

CONFIGS = "pcm_policy.configs"
_QUIET = ({"override hydra/job_logging": "none"}, {"override hydra/hydra_logging": "none"})
_HERE = {"run": {"dir": "."}, "sweep": {"dir": ".", "subdir": "."}, "output_subdir": None}


def compose(name: str, words: Sequence[str], config_dir: Path | None = None) -> Any:
    """Return the settings of a command, every one checked.

    Args:
        name: of the command, such as ``eval`` or ``bench tune``.
        words: settings as typed, such as ``train.steps=100``.
        config_dir: a folder with more choices for the groups.

    Raises:
        PcmError: a setting that does not exist, must be given, or is of the wrong type or range.
    """
    return settings_of(name, composed(name, overrides_of(name, words), config_dir))


def overrides_of(name: str, words: Sequence[str], sweep: bool = False) -> list[str]:
    """Return the words of a command line as hydra takes them, after importing its plugins.

    Raises:
        PcmError: an unknown setting, or a plugin that cannot be imported.
    """
    _import_plugins(words)
    command = COMMANDS[name]
    return Vocabulary.of(command.kind, command.words).overrides(words, sweep)


def composed(name: str, overrides: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """Return the values that hydra puts together for a command, not yet checked.

    Raises:
        PcmError: an option that does not exist, or a file that is no YAML.
    """
    store(name)
    more = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir}']"]
    try:
        with hydra.initialize_config_module(version_base="1.3", config_module=CONFIGS):
            return hydra.compose(config_name(name), overrides=[*more, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise PcmError(_explain(name, str(error), overrides)) from error


def settings_of(name: str, config: DictConfig) -> Any:
    """Check composed values and return them as the command's settings object.

    Raises:
        PcmError: a setting of the wrong type or range, or one that must be given.
    """
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        lines = [line.strip() for line in str(error).splitlines()]
        missing = lines[0].partition("Missing mandatory value: ")[2]
        if missing:
            raise PcmError(f"give {missing}=...") from error
        raise PcmError("; ".join(lines[:2])) from error
    return read(COMMANDS[name].kind, values)


def jobs(overrides: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every run of a sweep, ``solver=ddim,pcm``; hydra goes in this order.

    Raises:
        PcmError: a sweep without an end, which a sweeper of its own would have to draw from.
    """
    parts = []
    for one in OverridesParser.create().parse_overrides(list(overrides)):
        if not one.is_sweep_override():
            parts.append([one.input_line or ""])
        elif one.is_discrete_sweep():
            parts.append([f"{one.get_key_element()}={v}" for v in one.sweep_string_iterator()])
        else:
            raise PcmError(
                f"{one.input_line}: give the values of a sweep, as {one.key_or_group}=1,2"
            )
    return [list(job) for job in product(*parts)]


def shown(config: DictConfig, resolve: bool) -> str:
    """Return composed settings as YAML; what comes from the environment is not filled in."""
    raw = OmegaConf.to_container(config, resolve=False)
    if resolve:
        raw = _resolved(raw, OmegaConf.to_container(config, resolve=True))
    return OmegaConf.to_yaml(OmegaConf.create(raw))


def _resolved(raw: Any, found: Any) -> Any:
    if isinstance(raw, dict) and isinstance(found, dict):
        return {key: _resolved(raw[key], found[key]) for key in raw}
    return raw if isinstance(raw, str) and "${oc.env:" in raw else found


def config_name(name: str) -> str:
    """Return what hydra calls the settings of a command."""
    return "pcm_" + name.replace(" ", "_")


def store(name: str) -> None:
    """Tell hydra the defaults, groups and links of a command."""
    kind = COMMANDS[name].kind
    node = OmegaConf.create(defaults(kind))
    for key, source in kind.links.items():
        OmegaConf.update(node, key, f"${{{source}}}")
    groups = [{group: option} for group, option in kind.groups.items()]
    listed = {"defaults": ["_self_", *groups, *_QUIET], "hydra": _HERE}
    values = OmegaConf.to_container(node, resolve=False)
    assert isinstance(values, dict)
    ConfigStore.instance().store(config_name(name), listed | values)


def options_of_group(group: str) -> list[str]:
    """Return the choices that a group has."""
    with hydra.initialize_config_module(version_base="1.3", config_module=CONFIGS):
        found = GlobalHydra.instance().config_loader().get_group_options(group)
    return sorted(option for option in found if not option.startswith("_"))


def _import_plugins(words: Sequence[str]) -> None:
    given = [word.partition("=")[2] for word in words if word.lstrip("+").startswith("plugins=[")]
    if given and "" not in sys.path:
        sys.path.append("")  # the working directory, which a script's search path lacks
    for name in split(given[-1].strip("[]")) if given else []:
        try:
            import_module(name.strip("'\""))
        except Exception as error:  # it is the user's code: anything may come out of it
            raise PcmError(f"plugins=[{name}] cannot be imported: {error!r}") from error


def _explain(name: str, message: str, overrides: Sequence[str]) -> str:
    first = " ".join(message.split("\n\n")[0].split())
    for override in overrides:
        key, _, value = override.partition("=")
        if key in COMMANDS[name].kind.groups and f"{key}/{value.strip(chr(39))}" in first:
            known = ", ".join(options_of_group(key))
            return f"{key}={value}: there is no such {key}; use one of {known}"
    return f"{first} (pcm-{name} --help shows all settings)"


def env_kwargs(task: TaskSettings | Mapping[str, Any], demonstrate: bool = False) -> dict[str, Any]:
    """Return what a task's environment is made with.

    Args:
        task: the task section.
        demonstrate: for its scripted expert, which may act in another way than policies do.
    """
    section = plain(task)
    own = dict(section.get("env_kwargs") or {})
    return own | dict(section.get("demonstrate") or {}) if demonstrate else own


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


def load_policy(config: Any) -> DiffusionPolicy:
    """Load the policy that a command's settings name, on its device and with its runtime."""
    policy = DiffusionPolicy.from_pretrained(config.policy, pick_device(config.device))
    if hasattr(config, "runtime"):
        policy.use(Runtime(policy, config.runtime))
    return policy


def writable(folder: str) -> Path:
    """Return the output folder, made and tested for writing before any work is done.

    Raises:
        PcmError: it cannot be made or written to.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:  # of its own: other runs test as well
            probe.write(b"x")
    except (OSError, ValueError) as error:
        raise PcmError(f"output_dir={folder} cannot be written: {error}") from error
    return path


register()

"""Which task a command is about: the one that is named, or else the one that a policy says."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcm_policy.cli.settings.common import TaskSettings
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.config_file import config_of
from pcm_policy.rollout.robomimic_policy import SCHEME
from pcm_policy.settings import plain, read
from pcm_policy.training.dataset import DatasetConfig

CONFIGS = "pcm_policy.configs"


class Placed(Protocol):
    """Settings of a command that rolls a policy out."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def task(self) -> TaskSettings:
        """What is done, and where."""

    @property
    def policy(self) -> str | None:
        """Who does it."""


C = TypeVar("C", bound=Placed)


def named_task(name: str) -> dict[str, Any] | None:
    """Return the settings of a task of the package, None where it has no task of that name."""
    if not re.fullmatch(r"[\w-]+(/[\w-]+)?", name):
        return None
    group, _, option = f"task/{name}".rpartition("/")
    with hydra.initialize_config_module(version_base="1.3", config_module=CONFIGS):
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        if option not in options:
            return None
        config = hydra.compose(f"{group}/{option}")
    try:
        found: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException:
        return None  # the beginning of a task, such as robosuite.yaml
    section: dict[str, Any] = plain(read(TaskSettings, found.get("task", {}), "task"))
    return section


def placed(config: C, needed: bool = True) -> C:
    """Return a command's settings with a task that has an environment.

    It is the task that is named; or else that of the policy, for which what is said of the task on
    the command line is changed.

    Args:
        config: has a ``task`` and names a ``policy``.
        needed: whether it must have one.

    Raises:
        PcmError: neither says a task with an environment.
    """
    task, source = config.task, config.policy
    if task.env_id is None and task.name is None and source and not source.startswith(SCHEME):
        found, usual = named_task(config_of(source).task), named_task("custom")
        if found is not None and usual is not None:
            said = {k: v for k, v in plain(task).items() if v != usual[k]}
            task = read(TaskSettings, found | said, "task")
    if needed:
        task.check_place()
    return replace(config, task=task)


def same_fields(task: Mapping[str, Any], policy: PolicyConfig) -> bool:
    """Whether a task observes and acts in the fields that a policy does."""
    cameras = {} if policy.vision is None else policy.vision.cameras
    return (
        tuple(task.get("obs_fields") or ()) == tuple(policy.obs_fields)
        and task.get("action_field") == policy.action_field
        and set(task.get("cameras") or {}) == set(cameras)
    )


def reading_of(policy: PolicyConfig, task: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a policy's demonstrations are read: ``names`` of entries, and a ``symmetry``.

    They are those of the task that is named; or else what the policy was trained with; or, where
    its folder does not say that, those of the task of its name, if the fields are the same.

    Args:
        policy: of the policy that is distilled.
        task: the task section; its ``name`` is None where no task was named.

    Raises:
        PcmError: a task that is named has other fields than the policy, or the policy's symmetry is
            a function that is not this package's.
    """
    if task.get("name") is not None:
        if not same_fields(task, policy):
            raise PcmError(
                f"task={task['name']} observes {list(task.get('obs_fields') or ())}, the policy "
                f"{list(policy.obs_fields)}: leave task= out, the policy knows what it observes"
            )
        return _reading(task)
    if policy.demonstrations:
        return _recorded(policy)
    known = named_task(policy.task)
    return _reading(known if known is not None and same_fields(known, policy) else {})


def other_split(policy: PolicyConfig, dataset: DatasetConfig) -> str | None:
    """Say that a policy was trained on episodes that a distillation holds out, if it was."""
    recorded = {k: policy.demonstrations.get(k) for k in ("val_fraction", "val_seed")}
    given = {k: getattr(dataset, k) for k in recorded}
    differs = [k for k, v in recorded.items() if v is not None and v != given[k]]
    if not differs or dataset.val_filter_key is not None:
        return None
    words = " ".join(f"dataset.{k}={recorded[k]}" for k in differs)
    return f"the policy was trained with {words}: other episodes are held out here"


def _reading(section: Mapping[str, Any]) -> dict[str, Any]:
    return {"names": dict(section.get("names") or {}), "symmetry": section.get("symmetry")}


def _recorded(policy: PolicyConfig) -> dict[str, Any]:
    """Return what a policy's folder says, which may be anything, or raise PcmError."""
    names, symmetry = (policy.demonstrations.get(k) for k in ("names", "symmetry"))
    whole = isinstance(names or {}, dict) and all(map(_is_pair, (names or {}).items()))
    if not whole or not isinstance(symmetry, str | None):
        raise PcmError(
            "the policy's config.json: demonstrations holds no names and symmetry: restore it, or "
            "give dataset.names={} and dataset.symmetry=null"
        )
    return _own(_reading(policy.demonstrations))


def _is_pair(pair: tuple[Any, Any]) -> bool:
    return all(isinstance(text, str) for text in pair)


def _own(reading: dict[str, Any]) -> dict[str, Any]:
    """Import nothing that a policy's folder names but what is in this package."""
    symmetry = reading["symmetry"]
    if symmetry is not None and not str(symmetry).startswith("pcm_policy."):
        raise PcmError(
            f"the policy was trained with symmetry={symmetry}, which is not of this package: "
            f"dataset.symmetry={symmetry} imports and uses it, dataset.symmetry=null does not"
        )
    return reading

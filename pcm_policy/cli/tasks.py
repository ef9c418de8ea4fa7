"""Which task a command is about: the one that is named, or else the one that a policy says."""

from collections.abc import Mapping
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pcm_policy.cli.settings.common import TaskSettings
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.settings import plain, read

CONFIGS = "pcm_policy.configs"


def named_task(name: str) -> dict[str, Any] | None:
    """Return the settings of a task of the package, None where it has no task of that name."""
    group, _, option = f"task/{name}".rpartition("/")
    with hydra.initialize_config_module(version_base="1.3", config_module=CONFIGS):
        options = GlobalHydra.instance().config_loader().get_group_options(group)
        if option not in options:
            return None
        config = hydra.compose(f"{group}/{option}")
    if OmegaConf.missing_keys(config):
        return None  # the beginning of a task, such as robosuite.yaml
    found: Any = OmegaConf.to_container(config.task, resolve=True)
    section: dict[str, Any] = plain(read(TaskSettings, found, "task"))
    return section


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
        return _own(_reading(policy.demonstrations))
    known = named_task(policy.task) if policy.task else None
    return _reading(known if known is not None and same_fields(known, policy) else {})


def _reading(section: Mapping[str, Any]) -> dict[str, Any]:
    return {"names": dict(section.get("names") or {}), "symmetry": section.get("symmetry")}


def _own(reading: dict[str, Any]) -> dict[str, Any]:
    """Import nothing that a policy's folder names but what is in this package."""
    symmetry = reading["symmetry"]
    if symmetry is not None and not str(symmetry).startswith("pcm_policy."):
        raise PcmError(
            f"the policy was trained with symmetry={symmetry}, which is not of this package: "
            f"dataset.symmetry={symmetry} imports and uses it, dataset.symmetry=null does not"
        )
    return reading

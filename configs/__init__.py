"""The hydra configuration tree (pkg://pcm_policy.configs), and the options that a loop can make."""


def register() -> None:
    """Make ``task=metaworld/NAME`` an option for every task of Meta-World."""
    from hydra.core.config_store import ConfigStore

    from pcm_policy.envs.metaworld_tasks import METAWORLD_TASKS

    store = ConfigStore.instance()
    for name in METAWORLD_TASKS:
        node = {"defaults": ["/task/metaworld@_here_", "_self_"], "variant": name}
        store.store(group="task/metaworld", name=name, node=node, package="task")

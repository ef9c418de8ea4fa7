"""The hydra configuration tree (pkg://pcm_policy.configs), and the options that a loop can make."""

METAWORLD_TASKS = (
    *("assembly", "basketball", "bin-picking", "box-close", "button-press", "button-press-topdown"),
    *("button-press-topdown-wall", "button-press-wall", "coffee-button", "coffee-pull"),
    *("coffee-push", "dial-turn", "disassemble", "door-close", "door-lock", "door-open"),
    *("door-unlock", "drawer-close", "drawer-open", "faucet-close", "faucet-open", "hammer"),
    *("hand-insert", "handle-press", "handle-press-side", "handle-pull", "handle-pull-side"),
    *("lever-pull", "peg-insert-side", "peg-unplug-side", "pick-out-of-hole", "pick-place"),
    *("pick-place-wall", "plate-slide", "plate-slide-back", "plate-slide-back-side"),
    *("plate-slide-side", "push", "push-back", "push-wall", "reach", "reach-wall", "shelf-place"),
    *("soccer", "stick-pull", "stick-push", "sweep", "sweep-into", "window-close", "window-open"),
)
"""Meta-World's fifty tasks, without their version."""


def register() -> None:
    """Make ``task=metaworld/NAME`` an option for every task of Meta-World."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name in METAWORLD_TASKS:
        node = {"defaults": ["/task/metaworld@_here_", "_self_"], "variant": name}
        store.store(group="task/metaworld", name=name, node=node, package="task")

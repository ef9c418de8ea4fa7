"""Names of robomimic's datasets here, and where an array goes that robomimic never had."""

from collections.abc import Iterable

_OWN = {
    "action": "actions",
    "reward": "rewards",
    "done": "dones",
    "absolute_action": "absolute_actions",  # ours: see pcm_policy/envs/rotations.py
}
_PLAIN = {*_OWN.values(), "states"}
_STEPS = ("obs/", "next_obs/")


def neutral_names(natives: Iterable[str]) -> dict[str, str]:
    """Name every dataset: ``obs/x`` is ``x`` unless another dataset is."""
    natives = list(natives)
    plain = {native.replace("/", ".") for native in natives if not native.startswith("obs/")}
    names = {}
    for native in natives:
        short = native.removeprefix("obs/").replace("/", ".")
        names[f"obs.{short}" if native.startswith("obs/") and short in plain else short] = native
    return names


def native_name(name: str) -> str:
    """Return where robomimic looks for an array that it never had."""
    own = _OWN.get(name, name)
    if own in _PLAIN:
        return own
    head, _, rest = name.partition(".")
    return f"{head}/{rest}" if head in ("next_obs", "obs") and rest else f"obs/{name}"


def of_steps(native: str) -> bool:
    """Say whether robomimic wants one row a step of a dataset of this name."""
    return native in _PLAIN or native.startswith(_STEPS)

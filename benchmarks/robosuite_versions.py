"""Play demonstrations of one robosuite in the other one, and say how far they part.

    pcm-data generate task=can episodes=20 output=can.hdf5        # where robosuite 1.4 is installed
    python -m benchmarks.robosuite_versions can.hdf5     # where 1.5 is, or the reverse

Each demonstration's first state is set in the model of the robosuite that is installed (of Lift the
size of the cube is another one) and its actions, deltas of OSC_POSE, are played without looking,
the last one five times more.
``results/robosuite_versions.json`` keeps a row for each task and pair of versions.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from benchmarks import RESULTS
from pcm_policy.datasets.formats.robomimic import demonstrations
from pcm_policy.envs.robosuite import Robosuite
from pcm_policy.envs.robosuite_tasks import TASKS
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.tables import table

RESULT = RESULTS / "robosuite_versions.json"
STEPS = {"first": 1, "20th": 20, "last": -1}  # after which the hands are compared
LATER = 5  # how often the last action is given again, for a success that comes later
PACKAGES = ("robosuite", "mujoco")
HEAD = ["task", "recorded", "played", *(f"hand after the {n} step" for n in STEPS), "succeed again"]


def played(env: Robosuite, demo: Any) -> tuple[NDArray[np.float64], bool]:
    """Return the distances of the hands (m) after STEPS, and whether the task succeeded."""
    observation, _ = env.reset(options={"state": demo["states"][0]})
    hands, success = [observation["robot0_eef_pos"]], False
    actions = demo["actions"][:]
    for action in [*actions, *[actions[-1]] * LATER]:
        observation, _, over, _, _ = env.step(action)
        hands.append(observation["robot0_eef_pos"])
        success |= over
    wanted = np.concatenate([demo["obs/robot0_eef_pos"], demo["next_obs/robot0_eef_pos"][-1:]])
    apart = np.linalg.norm(np.array(hands[: len(wanted)]) - wanted, axis=-1)
    return apart[list(STEPS.values())], success


def compared(path: Path) -> dict[str, Any]:
    """Return a row: the versions, the mean distance after each number of steps, successes."""
    with h5py.File(path) as file:
        attrs = file["data"].attrs
        recorded = json.loads(attrs["versions"])
        env_name = json.loads(attrs["env_args"])["env_name"]
        (name,) = (name for name, task in TASKS.items() if task.env_name == env_name)
        with closing(Robosuite(name, control="delta")) as env:
            env.reset(seed=0)
            found = [played(env, file["data"][demo]) for demo in demonstrations(path, file)]
    hands = np.mean([apart for apart, _ in found], axis=0)
    return {
        "task": name,
        "recorded": {package: recorded[package] for package in PACKAGES},
        "played": {package: metadata.version(package) for package in PACKAGES},
        "episodes": len(found),
        "hand_m": dict(zip(STEPS, map(float, hands), strict=True)),
        "successes": sum(success for _, success in found),
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one line of the table, distances in millimetres."""
    versions = [f"{row[k]['robosuite']}, MuJoCo {row[k]['mujoco']}" for k in ("recorded", "played")]
    apart = [f"{1e3 * value:.2g} mm" for value in row["hand_m"].values()]
    return [row["task"], *versions, *apart, f"{row['successes']} of {row['episodes']}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="*", help="robomimic files of pcm-data generate")
    asked = parser.parse_args(argv)
    before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = {(r["task"], *(str(r[k]) for k in ("recorded", "played"))): r for r in before}
    for path in asked.files:
        row = json.loads(to_json(compared(path)))
        rows[(row["task"], str(row["recorded"]), str(row["played"]))] = row
    write_text(RESULT, to_json({"rows": list(rows.values())}))
    print(table(HEAD, list(map(cells, rows.values()))))


if __name__ == "__main__":
    main()

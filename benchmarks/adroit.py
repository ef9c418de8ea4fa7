"""Adroit's human demonstrations of the door, played again in the environment without looking.

    python -m benchmarks.adroit adroit_door_human.hdf5 --output adroit_replay.json
    python -m benchmarks.adroit adroit_door_human.hdf5 --again again.hdf5

Every demonstration is played from its ``initial_state`` and from its first observation, at rest.
``--again`` writes what is seen and done from the ``initial_state`` on, each up to the step after
which the door does not open further towards success: up to success, or to 1 rad without one.
Needs the simulator: pip install '.[adroit,convert]'.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.adroit import AdroitDoor
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text

Array = NDArray[np.float64]
HINGE, PALM, OPENED, SUCCESS = 28, slice(29, 32), 1.0, 1.35
AFTER = (1, 5, 20, 50)
"""Steps after which joints are compared."""


def first_state(env: Any, seen: Array, start: dict[str, Array]) -> dict[str, Array]:
    """Return the state that an observation shows; the arm's way forward shows in the palm alone."""
    joints = np.concatenate([[0.0], seen[:27], [seen[HINGE]], [seen[27]]])
    found = start | {"qpos": joints, "qvel": np.zeros(30)}
    env.set_env_state(found)
    there = env._get_obs()[PALM]
    env.set_env_state(found | {"qpos": joints + np.eye(30)[0]})
    way = env._get_obs()[PALM] - there
    forward = float((seen[PALM] - there) @ way / (way @ way))
    return found | {"qpos": joints + forward * np.eye(30)[0]}


def play(env: Any, start: dict[str, Array], actions: Array) -> Array:
    """Return the observations from a state on, (steps + 1, 39)."""
    first, _ = env.reset(seed=0, options={"initial_state_dict": start})
    return np.stack([first, *(env.step(action)[0] for action in actions)])


def compared(played: Array, recorded: Array) -> dict[str, Any]:
    """Return how far the door opens and how far joints are from the recorded ones, radians."""
    apart = np.abs(played[: len(recorded), :27] - recorded[:, :27]).max(axis=1)
    furthest = float(played[:, HINGE].max())
    return {"hinge": furthest, "joints": {str(k): float(apart[k]) for k in AFTER}}


def cut(seen: Array) -> int:
    """Return how many actions there are up to success, or else up to an open door."""
    bound = SUCCESS if seen[:, HINGE].max() >= SUCCESS else OPENED
    return int(np.argmax(seen[:, HINGE] >= bound))


def main(argv: Sequence[str] | None = None) -> None:
    """Play, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("demos", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--again", type=Path)
    args = parser.parse_args(argv)
    rows, again = [], []
    with closing(AdroitDoor()) as made, h5py.File(args.demos) as file:
        env = made._env
        for i in range(len(file["data"])):
            demo = file[f"data/demo_{i}"]
            recorded, actions = demo["obs/observation"][:], demo["actions"][:]
            start = {name: values[:] for name, values in demo["initial_state"].items()}
            told = play(env, start, actions)
            shown = play(env, first_state(env, recorded[0], start), actions)
            rows.append({"steps": len(actions), "recorded": float(recorded[:, HINGE].max())})
            rows[-1] |= {"told": compared(told, recorded), "shown": compared(shown, recorded)}
            again.append((told[: cut(told)], actions[: cut(told)]))
    if args.again:
        with h5py.File(args.again, "w") as file:
            for i, (seen, done) in enumerate(again):
                demo = file.create_group(f"data/demo_{i}")
                demo.attrs["num_samples"] = len(done)
                demo["obs/observation"], demo["actions"] = seen, done
    if args.output:
        write_text(args.output, to_json({"demonstrations": rows}))
    hinges = [(r["recorded"], r["told"]["hinge"], r["shown"]["hinge"]) for r in rows]
    for title, column in zip(("recorded", "told", "shown"), np.array(hinges).T, strict=True):
        print(f"{title}: {(column >= SUCCESS).sum()} succeed, {column.min():.2f} to", end=" ")
        print(f"{column.max():.2f} rad")


if __name__ == "__main__":
    try:
        main()
    except PcmError as error:
        sys.exit(f"adroit.py: error: {error}")

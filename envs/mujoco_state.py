"""A MuJoCo simulation's state as numbers, from which it goes on bit by bit."""

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError


def finite(what: str, values: Any, size: int, more: str = "") -> NDArray[np.float64]:
    """Return so many finite numbers as an array, ``(size,)`` float64.

    Args:
        what: what they are, for the message.
        values: the numbers.
        size: how many are expected.
        more: whose they are, for the message.

    Raises:
        PcmError: they are not.
    """
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise PcmError(f"{what} is {size} finite numbers{more}, not {values!r:.60}") from None
    if found.shape != (size,):
        raise PcmError(f"{what} is {size} finite numbers{more}, not an array {found.shape}")
    if not np.isfinite(found).all():
        bad = int(np.flatnonzero(~np.isfinite(found))[0])
        raise PcmError(f"{what} is {size} finite numbers{more}: number {bad} is {found[bad]}")
    return found


class MujocoState:
    """Reads and writes time, positions, velocities, warm start, controls and hand targets.

    Args:
        model: mujoco's MjModel.
        data: its MjData.
    """

    def __init__(self, model: Any, data: Any) -> None:
        self._mujoco = importlib.import_module("mujoco")
        self._model, self._data = model, data
        kinds = self._mujoco.mjtState
        self._parts = int(kinds.mjSTATE_FULLPHYSICS | kinds.mjSTATE_WARMSTART)
        self._parts |= int(kinds.mjSTATE_CTRL | kinds.mjSTATE_MOCAP_POS | kinds.mjSTATE_MOCAP_QUAT)
        self._size = self._mujoco.mj_stateSize(model, self._parts)

    def clear(self) -> None:
        """Forget what happened, but the model's own start."""
        self._mujoco.mj_resetData(self._model, self._data)

    def read(self) -> NDArray[np.float64]:
        """Return the state, (numbers,)."""
        found = np.empty(self._size)
        self._mujoco.mj_getState(self._model, self._data, found, self._parts)
        return found

    def write(self, state: NDArray[np.float64]) -> None:
        """Go to a state, and compute what follows from it."""
        self._mujoco.mj_setState(self._model, self._data, state, self._parts)
        self._mujoco.mj_forward(self._model, self._data)
        self._mujoco.mj_setState(self._model, self._data, state, self._parts)  # the warm start

    def split(self, values: Any, before: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Part ``options["state"]`` into the numbers before the simulation's and those.

        Raises:
            PcmError: it is not as many finite numbers.
        """
        size = before + self._size
        state = finite("options['state']", values, size, " of this task's info['state']")
        return state[:before].copy(), state[before:]

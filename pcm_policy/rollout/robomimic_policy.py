"""A policy that robomimic trained, as our evaluator calls it: an independent baseline.

It acts by robomimic's own network and code, one action an observation; nothing of ours is in it but
the environment. ``benchmarks/routes/robomimic_bc.py`` trains one with robomimic's own loop.
"""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcm_policy.envs.simulators import import_robomimic
from pcm_policy.errors import PcmError

SCHEME = "robomimic:"
KEPT_OBSERVATIONS = 256


class RobomimicPolicy:
    """Predict for many episodes at once.

    Args:
        path: a checkpoint of robomimic, ``models/*.pth``; it is read as weights and plain values,
            nothing in it is executed.

    Raises:
        PcmError: robomimic is not installed, the file is missing, damaged or none of its
            checkpoints, or its policy remembers earlier observations (RNN, history).
    """

    def __init__(self, path: str | Path) -> None:
        files = import_robomimic("robomimic.utils.file_utils")
        self.path = Path(path)
        if not self.path.is_file():
            raise PcmError(f"{path} does not exist: name a checkpoint of robomimic, models/*.pth")
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            with contextlib.redirect_stdout(io.StringIO()):  # a table of modalities
                rollout, _ = files.policy_from_checkpoint(torch.device("cpu"), ckpt_dict=found)
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            raise PcmError(f"{path} is no checkpoint of robomimic that loads: {text}") from error
        self.label = f"robomimic {found['algo_name']}"
        self._algo = rollout.policy
        self._keys = list(found["shape_metadata"]["all_shapes"])
        config = self._algo.algo_config
        if rollout.obs_normalization_stats or any(
            name in config and config[name].get("enabled") for name in ("rnn", "transformer", "vae")
        ):
            raise PcmError(f"{path}: only policies of one observation run here, not {self.label}")
        self._seen: list[dict[str, NDArray[Any]]] = []

    def __call__(
        self,
        obs: dict[str, NDArray[Any]],
        seeds: NDArray[np.int64],
        ticks: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Return ``(B, 1, Da)`` actions for entries ``(B, To, ...)``, of which the newest counts.

        Raises:
            PcmError: the environment does not give an entry that the policy sees.
        """
        lacking = [key for key in self._keys if key not in obs]
        if lacking:
            raise PcmError(
                f"the observation lacks {lacking[0]}, which {self.path} sees: it has "
                f"{', '.join(obs)}; choose the task it was trained for"
            )
        newest = {key: np.asarray(obs[key], np.float32)[:, -1] for key in self._keys}
        if len(self._seen) < KEPT_OBSERVATIONS:
            row = len(self._seen) % len(seeds)
            self._seen.append({key: values[row, None] for key, values in newest.items()})
        with torch.no_grad():
            tensors = {key: torch.from_numpy(values) for key, values in newest.items()}
            actions = self._algo.get_action(obs_dict=tensors)
        result: NDArray[np.float32] = actions.numpy().astype(np.float32)[:, None]
        return result

    def observations(self) -> list[dict[str, NDArray[Any]]]:
        """Return some of the observations seen, ``(1, ...)`` an entry."""
        return list(self._seen)

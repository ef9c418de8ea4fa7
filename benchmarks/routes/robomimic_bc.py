"""Train robomimic's own behaviour cloning on a file, by its own loop; defaults but a rate of 1e-3.

python -m benchmarks.routes.robomimic_bc DEMOS.hdf5 OUTPUT --keys object,goal --epochs 60
pcm-eval policy=robomimic:OUTPUT/model.pth task=metaworld/pick-place output_dir=DIR
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from pcm_policy.envs.simulators import import_robomimic
from pcm_policy.errors import PcmError


def train(demos: Path, output: Path, keys: list[str], epochs: int, steps: int, seed: int) -> Path:
    """Train and return the checkpoint of the last epoch.

    Args:
        demos: robomimic file.
        output: folder that gets ``model.pth``.
        keys: low-dimensional observations, names in ``obs/``.
        epochs: of ``steps`` gradient steps; robomimic's other settings are its defaults.
        steps: gradient steps an epoch.
        seed: robomimic's.
    """
    config = import_robomimic("robomimic.config").config_factory("bc")
    loop = import_robomimic("robomimic.scripts.train")
    with config.values_unlocked(), tempfile.TemporaryDirectory() as scratch:
        config.train.data, config.train.output_dir = str(demos.resolve()), scratch
        config.train.num_epochs, config.train.seed, config.train.cuda = epochs, seed, False
        config.train.hdf5_load_next_obs = False
        config.experiment.name, config.experiment.rollout.enabled = "bc", False
        config.experiment.epoch_every_n_steps = steps
        config.experiment.validate = config.experiment.logging.log_tb = False
        config.experiment.save.enabled, config.experiment.save.every_n_epochs = True, epochs
        config.experiment.save.on_best_rollout_success_rate = False
        config.observation.modalities.obs.low_dim = keys
        config.algo.optim_params.policy.learning_rate.initial = 1e-3
        with patch.object(torch, "set_num_threads"):  # robomimic would take two
            loop.train(config, device=torch.device("cpu"))
        made = sorted(Path(scratch).rglob(f"model_epoch_{epochs}*.pth"))
        if not made:
            raise PcmError("robomimic wrote no checkpoint: see what it printed above")
        output.mkdir(parents=True, exist_ok=True)
        shutil.copy(made[-1], output / "model.pth")
    return output / "model.pth"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demos", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--keys", required=True)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    print(
        train(
            given.demos, given.output, given.keys.split(","), given.epochs, given.steps, given.seed
        )
    )

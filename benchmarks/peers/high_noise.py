"""One-step diffusion by training at high noise (Chen et al. 2026, arXiv 2606.05737).

    python -m benchmarks.peers.high_noise DEMONSTRATIONS OUTPUT [--policy P] [key=value ...]

No teacher and no distillation: the base is trained on, on its own demonstrations, with noise levels
drawn near pure noise (``pcm-train times=high_noise``), and then sampled in one step. The paper
keeps velocity prediction. A base that predicts the noise says nothing about the chunk at pure
noise, so its weights are where training starts, and ``v`` is what they learn to predict.
``python -m benchmarks.study.pcm --high-noise OUTPUT/policy`` samples the result in few steps.
"""

from collections.abc import Sequence

import torch

from benchmarks.peers import trained_parser
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.policy.folder import save_policy
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.consistency import student_of

RECIPE = (
    *("task=pusht", "task.action_steps=10", "network=unet1d", "times=high_noise"),
    *("policy.prediction=v_prediction", "policy.sampler.steps=1", "weights=float16"),
    *("train.steps=2400", "train.batch=128", "train.lr=0.0005", "train.ema=0.998", "train.seed=2"),
    "train.warmup=100",
)


def main(words: Sequence[str] | None = None) -> None:
    """Train the base on, or go on where that was cut off."""
    parser = trained_parser(__doc__)
    parser.add_argument("overrides", nargs="*", help="of the training, such as train.steps=100")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    start = options.output / "start"
    if not start.exists():
        save_policy(student_of(DiffusionPolicy.from_pretrained(options.policy)), start)
    resume = str((options.output / "checkpoints").exists()).lower()
    given = [*RECIPE, "threads=1", f"init={start}", f"dataset.path={options.data}"]
    given += [f"output_dir={options.output}", f"resume={resume}", *options.overrides]
    print(cli_train.train_main(compose("train", given)))


if __name__ == "__main__":
    main()

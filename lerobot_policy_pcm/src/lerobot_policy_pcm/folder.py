"""``lerobot-pcm``: write a policy of pcm_policy as a LeRobot policy folder, or the way back."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION

from lerobot_policy_pcm.configuration_pcm import PCMConfig
from lerobot_policy_pcm.modeling_pcm import PCMPolicy
from lerobot_policy_pcm.processor_pcm import make_pcm_pre_post_processors
from pcm_policy import DiffusionPolicy, PcmError
from pcm_policy.files import atomic_folder, read_json


def write_folder(
    source: str, target: Path, obs_entries: Sequence[str] = (), solver: str | None = None
) -> PCMPolicy:
    """Write the folder atomically and return the policy as LeRobot will load it.

    Args:
        source: a policy folder, one that ships, or ``OWNER/NAME`` on the hub.
        target: the folder; an existing one is replaced.
        obs_entries: LeRobot's names of what the policy sees; none for the policy's own.
        solver: method to note in the config; None for the policy's own.

    Raises:
        PcmError: no policy there, or it does not say which entries it sees.
    """
    policy = DiffusionPolicy.from_pretrained(source)
    ours = policy.config
    entries = list(obs_entries or ours.obs_fields)
    cameras = () if ours.vision is None else tuple(ours.vision.cameras)
    named = all(name.startswith("observation.") for name in (*entries, *cameras))
    if not named or not (entries or cameras):
        raise PcmError(
            f"{source} sees {', '.join((*entries, *cameras)) or 'unnamed numbers'}: give LeRobot's "
            "names in that order, as --obs observation.state observation.environment_state"
        )
    config = PCMConfig(
        n_obs_steps=ours.obs_steps,
        horizon=ours.horizon,
        n_action_steps=ours.action_steps,
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, (ours.action_dim,))},
        obs_entries=entries,
        network=ours.to_dict(),
        solver=solver,
        device="cpu",
    )
    result = PCMPolicy(config)
    result.pcm.load_state_dict(policy.state_dict())
    with atomic_folder(target) as folder:
        result.save_pretrained(folder)
        for processor in make_pcm_pre_post_processors(config):
            processor.save_pretrained(folder)
    return result


def lerobot_folder(source: str) -> Path | None:
    """Return the LeRobot folder of type ``pcm`` that a path means, or None if it means none.

    Args:
        source: the folder, a checkpoint that holds it, or the folder of a run of ``lerobot-train``,
            whose last checkpoint it is then.
    """
    for inside in (".", "pretrained_model", "checkpoints/last/pretrained_model"):
        folder = Path(source, inside)
        if (folder / "config.json").is_file():
            data = read_json(folder / "config.json")
            return folder if isinstance(data, dict) and data.get("type") == "pcm" else None
    return None


def write_back(source: Path, target: Path) -> DiffusionPolicy:
    """Write the policy of a LeRobot folder as pcm_policy's own, for ``pcm-distill`` and the rest.

    Of a policy that ``lerobot-train`` made these are the averaged weights.

    Args:
        source: a LeRobot folder of type ``pcm``.
        target: the folder; an existing one is replaced.

    Raises:
        PcmError: the folder is damaged.
    """
    policy = PCMPolicy.from_pretrained(source).pcm
    policy.save_pretrained(target)
    return policy


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="lerobot-pcm", description=__doc__)
    parser.add_argument(
        "policy",
        help="a policy folder of pcm_policy, or OWNER/NAME on the hub; or a LeRobot folder of type "
        "pcm, or a run or checkpoint of lerobot-train: then the way back",
    )
    parser.add_argument("folder", type=Path, help="the policy folder to write")
    parser.add_argument("--obs", nargs="+", default=(), help="LeRobot's names of the observation")
    parser.add_argument("--solver", help="such as pcm, picard, sequential; default: the policy's")
    args = parser.parse_args(words)
    try:
        source = lerobot_folder(args.policy)
        if source is None:
            written = write_folder(args.policy, args.folder, args.obs, args.solver)
            line = f"sees {', '.join(written.seen)}; {written.solver.label}"
        elif args.obs or args.solver:
            raise PcmError(f"{source} is a LeRobot folder: the way back takes no --obs or --solver")
        else:
            policy = write_back(source, args.folder)
            sees = ", ".join(policy.config.obs_fields)
            line = f"pcm_policy's folder of {source}; sees {sees}; {policy.solver().label}"
    except PcmError as error:
        sys.exit(f"lerobot-pcm: error: {error}")
    print(f"{args.folder}: {line}")


if __name__ == "__main__":
    main()

"""``pcm-train`` and ``pcm-distill``: from demonstrations to the folder of a policy."""

import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from omegaconf import DictConfig

from pcm_policy.cli.compose import pick_device, plain, typed, writable
from pcm_policy.cli.tasks import reading_of
from pcm_policy.errors import PcmError
from pcm_policy.measure.card import card
from pcm_policy.measure.exactness import exactness_report
from pcm_policy.policy.folder import fingerprint, resolve_data, round_to_half, save_policy
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.consistency import Consistency
from pcm_policy.training.demonstrations import (
    DatasetConfig,
    Demonstrations,
    load_demonstrations,
)
from pcm_policy.training.distillation import Distillation, with_head
from pcm_policy.training.loop import TrainConfig, fit
from pcm_policy.training.make import (
    completed_task,
    continued_policy,
    new_policy,
    policy_config,
)


def train_main(config: DictConfig) -> Path:
    """Train a base policy; returns its folder."""
    output, half = writable(config.output_dir), _half(config)
    training = typed(TrainConfig, config.train, "train")
    task = plain(config.task)
    dataset = _dataset(config).filled(task)
    task = completed_task(task, dataset)
    settings = policy_config(task, plain(config.network), plain(config.policy), dataset.reading)
    data = load_demonstrations(dataset, settings)
    if config.init is None:
        policy = new_policy(settings, data, training.seed, config.policy.normalizer)
    else:
        policy = continued_policy(settings, DiffusionPolicy.from_pretrained(config.init))
    windows, held_out = data.windows(policy)
    objective = Cloning(policy, windows, held_out, training.batch, training.seed)
    accelerator = _accelerator(config)
    policy = objective.adopt(
        fit(objective, training, output, accelerator, resume=config.resume)
    ).eval()
    if half:
        round_to_half(policy.network)
    text = card(policy, data.describe(dataset), "pcm-train", asdict(training))
    return _save(policy, data, text, output, accelerator, data.sights(policy))


def distill_main(config: DictConfig) -> Path:
    """Distil a PCM head, or a consistency model; returns the policy's folder."""
    output, half = writable(config.output_dir), _half(config)
    training = typed(TrainConfig, config.train, "train")
    base = DiffusionPolicy.from_pretrained(config.policy)
    dataset = _dataset(config)
    if dataset.names is None or dataset.symmetry == "auto":
        dataset = dataset.filled(reading_of(base.config, plain(config.task)))
    data = load_demonstrations(dataset, base.config)
    seen, data = data, data.encoded(base.to(pick_device(config.device)))
    objective = _distillation(config, base, data, training)
    accelerator = _accelerator(config)
    start = time.monotonic()
    policy = objective.adopt(fit(objective, training, output, accelerator, resume=config.resume))
    if half:
        round_to_half(policy.head or policy.network)
    minutes = f"{(time.monotonic() - start) / 60:.1f} min on {accelerator.device}"
    made = {
        "distilled in": minutes + (", the part since it was resumed" if config.resume else ""),
        "base": f"weights `{fingerprint(base.network)}`",
    }
    measured = ""
    if accelerator.is_main_process:
        measured = exactness_report(policy.eval(), data.observations(policy), base)
    text = card(policy, data.describe(dataset), "pcm-distill", asdict(training), made, measured)
    return _save(policy, data, text, output, accelerator, seen.sights(policy))


def _distillation(
    config: DictConfig, base: DiffusionPolicy, data: Demonstrations, training: TrainConfig
) -> Distillation | Consistency:
    head, sampler, seed = plain(config.head), plain(config.sampler), training.seed
    windows, held_out = data.windows(base)
    if head["name"] == "consistency":
        try:
            return Consistency(
                base, sampler, windows, held_out, training.batch, seed, **head["options"]
            )
        except TypeError as error:
            raise PcmError(f"head=consistency: {error}") from error
    options = plain(config.distill)
    policy = with_head(base, head, sampler, seed, options.pop("rounds"))
    return Distillation(policy, windows, held_out, training.batch, seed, **options)


def _accelerator(config: DictConfig) -> Accelerator:
    device = pick_device(config.device)
    return Accelerator(cpu=device.type == "cpu", mixed_precision=str(config.precision))


def _half(config: DictConfig) -> bool:
    if config.weights not in ("float32", "float16"):
        raise PcmError(f"weights={config.weights}: use float32 or float16")
    return bool(config.weights == "float16")


def _dataset(config: DictConfig) -> DatasetConfig:
    dataset = typed(DatasetConfig, config.dataset, "dataset")
    more = [resolve_data(path) for path in dataset.more]
    cache = str(Path(config.output_dir, "frames"))
    return replace(dataset, path=resolve_data(dataset.path), more=more, cache=cache)


def _save(
    policy: DiffusionPolicy,
    data: Demonstrations,
    text: str,
    output: Path,
    accelerator: Accelerator,
    sights: dict[str, torch.Tensor],
) -> Path:
    folder = output / "policy"
    if accelerator.is_main_process:
        held_out = data.observations(policy)
        save_policy(policy, folder, card=text, observations=held_out, sights=sights)
        print(folder)
    return folder

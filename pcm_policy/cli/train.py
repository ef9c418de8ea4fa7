"""``pcm-train`` and ``pcm-distill``: from demonstrations to the folder of a policy."""

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pcm_policy.cli.compose import pick_device, plain, writable
from pcm_policy.cli.settings.train import DistillSettings, Training, TrainSettings
from pcm_policy.cli.tasks import other_split, reading_of
from pcm_policy.errors import PcmError
from pcm_policy.measure.card import card
from pcm_policy.measure.conditions import weights
from pcm_policy.measure.exactness import exactness_report
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.folder import save_policy
from pcm_policy.policy.places import resolve_data
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.tensors import round_to_half
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.solvers.certificate import UNCALIBRATED
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.consistency import Consistency
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.demonstrations import Demonstrations
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.headed import go_on, with_head
from pcm_policy.training.kept import Kept
from pcm_policy.training.launch import launched, weights_kind
from pcm_policy.training.loop import fit
from pcm_policy.training.make import (
    AUTO,
    completed_task,
    continued_policy,
    new_policy,
    policy_config,
)
from pcm_policy.training.output import FRAMES, SOLVED, occupied
from pcm_policy.training.reading import load_demonstrations
from pcm_policy.training.saying import say
from pcm_policy.training.sharing import check_divides
from pcm_policy.training.steep import SteepRows


def train_main(config: TrainSettings) -> Path:
    """Train a base policy; returns its folder."""
    training = config.train
    output, half, accelerator = _begin(config)
    kind = weights_kind(config.fsdp, accelerator)
    with occupied(output, resume=config.resume):
        dataset, data, policy, start = _new_base(config, training, accelerator)
        if policy.vision is not None:
            say(f"cameras {policy.vision.config.describe()}")
        windows, held_out = data.windows(policy)
        objective = Cloning(
            policy,
            windows,
            held_out,
            training.batch,
            training.seed,
            noises=config.noises,
            times=config.times,
        )
        made_from = {
            "policy": _settings(policy) | {"normalizer": config.policy.normalizer},
            "init": start,
            "noises": config.noises,
            "times": config.times,
            **_learnt_from(dataset, data, accelerator),
        }
        average = fit(
            objective,
            training,
            output,
            accelerator,
            resume=config.resume,
            made_from=made_from,
            weights=kind,
        )
        policy = objective.adopt(average).eval()
        if half:
            round_to_half(policy.network)
        text = card(policy, data.describe(dataset), "pcm-train", asdict(training))
        return _save(policy, data, text, output, accelerator, data.sights(policy))


def distill_main(config: DistillSettings) -> Path:
    """Distil a PCM head, or a consistency model; returns the policy's folder."""
    training = config.train
    output, half, accelerator = _begin(config)
    with occupied(output, resume=config.resume):
        base = DiffusionPolicy.from_pretrained(config.policy)
        dataset = _dataset(config)
        if dataset.names is None or dataset.symmetry == AUTO:
            dataset = dataset.filled(reading_of(base.config, plain(config.task)))
        if (note := other_split(base.config, dataset)) is not None:
            say(note)
        earlier = None if config.init is None else DiffusionPolicy.from_pretrained(config.init)
        headed = _headed(config, base, earlier)
        begins = "" if earlier is None else weights(earlier)["head"]
        if headed is not None and headed.head is not None and headed.head.starts:
            world, parts = accelerator.num_processes, training.accumulate
            check_divides("distill.guess_batch", config.distill.guess_batch, world, parts)
        with accelerator.main_process_first():  # it decodes frames
            data = load_demonstrations(dataset, base.config, output / FRAMES)
        seen, data = data, data.encoded(base.to(accelerator.device))
        solved_from = {
            "base": _weights(base),
            "runtime": f"{config.runtime.mode}, {config.runtime.precision}",
            **{key: plain(getattr(config, key)) for key in ("sampler", "distill")},
            **_learnt_from(dataset, seen, accelerator),
        }
        kept = None
        if config.distill.pools is not None:
            chosen_by = begins if config.distill.candidates > 1 else ""
            asked = {"seed": training.seed, "init": chosen_by}
            kept = Kept(output / SOLVED, solved_from | asked)
        objective = _distillation(config, base, headed, earlier, data, accelerator.device, kept)
        made_from = {
            "base": solved_from["base"],
            "init": begins,
            "policy": _settings(objective.policy),
            "head": plain(config.head),
            **solved_from,
        }
        start = time.monotonic()
        average = fit(
            objective, training, output, accelerator, resume=config.resume, made_from=made_from
        )
        policy = objective.adopt(average)
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


def _begin(config: TrainSettings | DistillSettings) -> tuple[Path, bool, Accelerator]:
    """Check what can be checked before any work is done."""
    accelerator = launched(pick_device(config.device), config.precision)
    world, parts = accelerator.num_processes, config.train.accumulate
    check_divides("train.batch", config.train.batch, world, parts)
    return writable(config.output_dir), config.weights == "float16", accelerator


def _new_base(
    config: TrainSettings, training: TrainConfig, accelerator: Accelerator
) -> tuple[DatasetConfig, Demonstrations, DiffusionPolicy, str | None]:
    """Return the data, the policy that is trained, and what weights it starts from."""
    task = plain(config.task)
    dataset = _dataset(config).filled(task)
    section, start = plain(config.policy), None
    task = completed_task(task, dataset)
    if config.init is not None:
        start = DiffusionPolicy.from_pretrained(config.init)
        if section["clip"] == AUTO:
            section["clip"] = start.config.clip
    settings = policy_config(task, plain(config.network), section, dataset.reading)
    with torch.device("meta"):
        DiffusionPolicy(settings)  # sizes that do not fit together end here, before any work
    with accelerator.main_process_first():  # it decodes frames
        data = load_demonstrations(dataset, settings, Path(config.output_dir, FRAMES))
    if start is not None:
        return dataset, data, continued_policy(settings, start), _weights(start)
    policy = new_policy(
        settings,
        data,
        training.seed,
        section["normalizer"],
        fit_clip=section["clip"] == AUTO,
        still_range=section["still_range"],
    )
    return dataset, data, policy, None


def _distillation(
    config: DistillSettings,
    base: DiffusionPolicy,
    headed: DiffusionPolicy | None,
    earlier: DiffusionPolicy | None,
    data: Demonstrations,
    device: torch.device,
    kept: Kept | None,
) -> Distillation[DiffusionPolicy] | Consistency:
    windows, held_out = data.windows(base)
    rows = windows, held_out, config.train.batch, config.train.seed
    if headed is None:
        return Consistency(base, plain(config.sampler), *rows, **config.head.options)
    options = plain(config.distill)
    del options["rounds"]
    candidates, steep = options.pop("candidates"), None
    if candidates > 1 and earlier is not None:
        seed = config.train.seed
        steep = SteepRows(earlier.to(device), windows, config.distill.pool, seed, candidates)
    runtime = Runtime(headed.to(device), config.runtime)
    return Distillation(headed, *rows, **options, steep=steep, kept=kept, execute=runtime)


def _headed(
    config: DistillSettings, base: DiffusionPolicy, earlier: DiffusionPolicy | None
) -> DiffusionPolicy | None:
    """Return the base with an untrained head; None for a consistency model."""
    if config.head.name == "consistency":
        if config.init is not None:
            raise PcmError(f"init={config.init}: a consistency model starts from its base")
        if config.runtime != RuntimeConfig():
            raise PcmError("runtime: a consistency model solves nothing, leave it as it is")
        return None
    head, sampler = plain(config.head), plain(config.sampler)
    headed = with_head(base, head, sampler, config.train.seed, config.distill.rounds)
    if earlier is not None:
        say(go_on(headed, earlier, str(config.init)))
    return headed


def _learnt_from(
    dataset: DatasetConfig, data: Demonstrations, accelerator: Accelerator
) -> Mapping[str, Any]:
    """Return what a resumed run must share: how data are read, what they hold, and the precision.

    A data set may have moved; its name and what it holds stay.
    """
    read = asdict(dataset) | {"path": Path(dataset.path).name}
    read |= {"more": [Path(path).name for path in dataset.more]}
    return {"dataset": read, "data": data.digests(), "precision": accelerator.mixed_precision}


def _settings(policy: DiffusionPolicy) -> dict[str, Any]:
    """Return a policy's config without what the dataset's settings say already."""
    return {k: v for k, v in policy.config.to_dict().items() if k != "demonstrations"}


def _weights(policy: DiffusionPolicy) -> str:
    """Return a digest of a policy's weights and normalisers, whatever head it has."""
    parts = (policy.network, policy.obs_normalizer, policy.action_normalizer, policy.vision)
    return " ".join(fingerprint(part) for part in parts if part is not None)


def _dataset(config: Training) -> DatasetConfig:
    dataset = config.dataset
    more = [resolve_data(path) for path in dataset.more]
    return replace(dataset, path=resolve_data(dataset.path), more=more)


def _save(
    policy: DiffusionPolicy,
    data: Demonstrations,
    text: str,
    output: Path,
    accelerator: Accelerator,
    sights: dict[str, Tensor],
) -> Path:
    folder = output / "policy"
    if accelerator.is_main_process:
        held_out = data.observations(policy)
        save_policy(policy, folder, card=text, observations=held_out, sights=sights)
        if policy.head is not None:
            say(f"certificates are {UNCALIBRATED}: run pcm-bench certify policy={folder}")
        print(folder)
    return folder

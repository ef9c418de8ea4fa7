"""What every importer ends in: checked weights, a config, normalisers, and from them a policy."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.settings import translating
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.layout import float32_by_default, layout
from pcm_policy.policy.normalize import Normalizer
from pcm_policy.policy.policy import DiffusionPolicy


@dataclass(frozen=True)
class Affine:
    """A normaliser as it was found: ``normalised = raw * scale + shift``; all ``(D,)`` float64.

    Attributes:
        scale: factor of each dimension.
        shift: added after it.
        low: smallest raw value that the policy saw in training; ``-inf`` where unknown.
        high: largest one.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor

    def normalizer(self, what: str) -> Normalizer:
        """Build the module; ``what`` names it in messages.

        Raises:
            PcmError: sizes that differ, a scale that is not positive, a value that is not finite.
        """
        found = Normalizer(len(self.scale))
        for name in ("scale", "shift", "low", "high"):
            values, target = getattr(self, name), getattr(found, name)
            if values.shape != target.shape:
                raise PcmError(f"{what}: {name} has shape {tuple(values.shape)}, not {len(target)}")
            target.copy_(values)
        found.check(what)
        return found

    @classmethod
    def join(cls, parts: "list[Affine]") -> "Affine":
        """Put the dimensions of several side by side."""
        names = ("scale", "shift", "low", "high")
        return cls(*(torch.cat([getattr(part, n) for part in parts]) for n in names))

    @classmethod
    def identity(cls, dim: int, low: float = -math.inf, high: float = math.inf) -> "Affine":
        """Leave ``dim`` dimensions as they are; the range is unknown unless given."""
        ones = torch.ones(dim, dtype=torch.float64)
        return cls(ones, 0 * ones, low * ones, high * ones)


@dataclass(frozen=True)
class Imported:
    """A checkpoint of another project, read and translated, nothing of it executed.

    Attributes:
        kind: ``lerobot``, ``multi_task_dit``, ``diffusion_policy`` or ``robomimic``.
        file: the file that holds the weights, for messages.
        config: ours.
        weights: of the network, under our names.
        obs: normaliser of the observation.
        action: normaliser of the action.
        original: what the self-check hands to the original implementation, as JSON holds it.
        notes: one line each about what a user should know.
        extra: further tensors for the original.
        vision: of the encoders and image normalisers, under our names; empty without cameras.
    """

    kind: str
    file: str
    config: PolicyConfig
    weights: Mapping[str, Tensor]
    obs: Affine
    action: Affine
    original: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    vision: Mapping[str, Tensor] = field(default_factory=dict)

    def policy(self) -> DiffusionPolicy:
        """Build the policy.

        Raises:
            PcmError: a weight is missing, superfluous, or of another shape or type than the
                config asks for; or a statistic is bad.
        """
        with translating(self.file):
            check_weights(self.file, self.weights, self.vision, self.config)
            return self._build()

    def _build(self) -> DiffusionPolicy:
        with float32_by_default():
            policy = DiffusionPolicy(self.config)
        policy.network.load_state_dict(dict(self.weights))
        if policy.vision is not None:
            policy.vision.load_state_dict(dict(self.vision))
        policy.obs_normalizer = self.obs.normalizer(f"{self.file}: observation normaliser")
        policy.action_normalizer = self.action.normalizer(f"{self.file}: action normaliser")
        for name, have, want in (
            ("observation", len(self.obs.scale), self.config.obs_dim),
            ("action", len(self.action.scale), self.config.action_dim),
        ):
            if have != want:
                raise PcmError(
                    f"{self.file}: the {name} normaliser has {have} dimensions, the policy {want}"
                )
        policy.check()
        return policy.eval()


def check_weights(
    file: str, network: Mapping[str, Tensor], vision: Mapping[str, Tensor], config: PolicyConfig
) -> None:
    """Compare weights with the modules that a config names, before any of it is allocated.

    Raises:
        PcmError: naming the first entry that is missing, superfluous, misshapen or not finite.
    """
    wanted = layout(config, file, len(network) + len(vision), DiffusionPolicy)
    compare(file, network, _part(wanted, "network."))
    compare(file, vision, _part(wanted, "vision."))


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def compare(file: str, have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """Compare weights with those that a module has.

    Raises:
        PcmError: naming the first entry that is missing, superfluous, misshapen or not finite.
    """
    lacking, extra = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    if lacking:
        raise PcmError(
            f"{file} lacks the layer {lacking[0]} ({len(lacking)} entries in all): it is cut short "
            "or of another architecture; download it again"
        )
    if extra:
        raise PcmError(
            f"{file} holds {extra[0]} ({len(extra)} entries in all), which this network has not: "
            "it is of another architecture, which cannot be imported"
        )
    for name, value in want.items():
        found = have[name]
        if found.dtype != value.dtype:
            raise PcmError(f"{file}: {name} is {found.dtype}, expected {value.dtype}: convert it")
        if found.shape != value.shape:
            raise PcmError(
                f"{file}: {name} has shape {tuple(found.shape)}, the config asks for "
                f"{tuple(value.shape)}"
            )
        if not bool(found.isfinite().all()):
            raise PcmError(f"{file}: {name} holds NaN or inf: training diverged")

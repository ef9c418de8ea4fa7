"""Normalisation that belongs to the policy and is stored with its weights."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError

NormalizerMode = Literal["minmax", "gaussian"]


class Normalizer(nn.Module):
    """Affine map per dimension to ``[-1, 1]`` (``minmax``) or mean 0, deviation 1 (``gaussian``).

    A dimension that never changes in the data maps to 0 and keeps its unit, as in Diffusion Policy:
    dividing by its range would turn rounding noise into large inputs.

    Attributes:
        scale: ``(D,)``; normalised = raw * scale + shift.
        shift: ``(D,)``.
        low: ``(D,)`` smallest raw value in the data.
        high: ``(D,)`` largest raw value in the data.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("shift", "low", "high"):
            self.register_buffer(name, torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))

    @classmethod
    def fit(
        cls, data: Tensor, mode: NormalizerMode = "minmax", constant: float = 1e-4
    ) -> "Normalizer":
        """Fit to ``(n, D)`` raw rows.

        Args:
            data: raw values; statistics are taken in float64.
            mode: ``minmax`` or ``gaussian``.
            constant: a dimension whose range is below this counts as constant.

        Raises:
            PcmError: no rows, a non-finite value, or an unknown mode.
        """
        if mode not in get_args(NormalizerMode):
            raise PcmError(f"unknown normaliser {mode!r}: use one of {get_args(NormalizerMode)}")
        if data.ndim != 2 or data.shape[0] == 0 or not bool(data.isfinite().all()):
            raise PcmError(f"cannot normalise data of shape {tuple(data.shape)}: need finite rows")
        rows = data.double()
        low, high = rows.amin(0), rows.amax(0)
        flat = high - low < constant
        if mode == "minmax":
            centre, spread = (high + low) / 2, (high - low) / 2
        else:
            centre, spread = rows.mean(0), rows.std(0, correction=0)
        scale = torch.where(flat, 1.0, 1.0 / torch.where(flat, 1.0, spread))
        result = cls(data.shape[1])
        values = {"scale": scale, "shift": -centre * scale, "low": low, "high": high}
        for name, value in values.items():
            getattr(result, name).copy_(value)
        return result

    def normalize(self, raw: Tensor) -> Tensor:
        """Map raw ``(..., D)`` to normalised ``(..., D)``."""
        return raw * self.scale + self.shift

    def unnormalize(self, value: Tensor) -> Tensor:
        """Map normalised ``(..., D)`` back to raw ``(..., D)``."""
        return (value - self.shift) / self.scale

    def excess(self, raw: Tensor) -> Tensor:
        """How far outside the data's range a value lies, in units of that range; 0 inside.

        Args:
            raw: ``(..., D)``.

        Returns:
            ``(..., D)``, non-negative. A constant dimension counts in its own raw unit.
        """
        width = self.high - self.low
        # the data spans at least two normalised units in every dimension that is not constant
        width = torch.where(width * self.scale > 1, width, torch.ones_like(width))
        return ((self.low - raw).clamp(min=0) + (raw - self.high).clamp(min=0)) / width

"""Normalisation that belongs to the policy and is stored with its weights."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pcm_policy.checks import check_range, number
from pcm_policy.errors import PcmError

NormalizerMode = Literal["minmax", "gaussian"]
STEPS = 64
"""A column that spans fewer steps of its numbers' type than this counts as constant."""
REACH = 1e3
"""How far beyond the largest value in the data normalised -1 and 1 may lie, as a factor."""
UNKNOWN_SCALES = (1e-12, 1e12)
"""Where nothing is known of a dimension's range, its scale lies in here."""


class Normalizer(nn.Module):
    """Affine map per dimension to ``[-1, 1]`` (``minmax``) or mean 0, deviation 1 (``gaussian``).

    A dimension that never changes in the data maps to 0 and keeps its unit: dividing by its range
    would turn rounding noise into large inputs. What counts as constant does not depend on the
    unit: a range of fewer than :data:`STEPS` steps of float32 at the size of the values, or one
    within float64's rounding of the largest column.

    Attributes:
        scale: ``(D,)``; normalised = raw * scale + shift.
        shift: ``(D,)``.
        low: ``(D,)`` smallest raw value in the data; ``-inf`` where it is not known.
        high: ``(D,)`` largest raw value in the data; ``inf`` where it is not known.
    """

    scale: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor
    _least: Tensor  # ``(D,)`` what values of constant dimensions are kept within
    _most: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(dim))
        self.register_buffer("shift", torch.zeros(dim))
        for name in ("low", "_least"):  # nothing is known of the data yet, nothing is constant
            self.register_buffer(name, torch.full((dim,), -torch.inf), name == "low")
        for name in ("high", "_most"):
            self.register_buffer(name, torch.full((dim,), torch.inf), name == "high")

    @classmethod
    def fit(
        cls, data: Tensor, mode: NormalizerMode = "minmax", still_range: float = 0.0
    ) -> "Normalizer":
        """Fit to ``(n, D)`` raw rows.

        Args:
            data: raw values; statistics are taken in float64.
            mode: ``minmax`` or ``gaussian``.
            still_range: a dimension that moves less than this, in raw units, counts as constant
                too: noise of what lies still. Only who knows the unit can say.

        Raises:
            PcmError: no rows, a non-finite value, or an unknown mode.
        """
        if mode not in get_args(NormalizerMode):
            raise PcmError(f"unknown normaliser {mode!r}: use one of {get_args(NormalizerMode)}")
        if data.ndim != 2 or data.shape[0] == 0 or not bool(data.isfinite().all()):
            raise PcmError(f"cannot normalise data of shape {tuple(data.shape)}: need finite rows")
        rows = data.double()
        low, high = rows.amin(0), rows.amax(0)
        flat = constant(low, high) | (high - low < number("still_range", still_range, 0))
        if mode == "minmax":
            centre, spread = (high + low) / 2, (high - low) / 2
        else:
            centre, spread = rows.mean(0), rows.std(0, correction=0)
        scale = torch.where(flat, 1.0, 1.0 / torch.where(flat, 1.0, spread))
        result = cls(data.shape[1])
        values = {"scale": scale, "shift": -centre * scale, "low": low, "high": high}
        for name, value in values.items():
            getattr(result, name).copy_(value)
        result.check("the data")
        return result

    def check(self, name: str) -> None:
        """Refuse statistics that would switch the gates off or blow actions up.

        Args:
            name: of the normaliser, for the message.

        Raises:
            PcmError: a value that is not finite, a scale that is not positive or out of all
                proportion to the range, low above high, or one end of a range alone.
        """
        scale, shift, low, high = (
            getattr(self, n).detach().double().cpu() for n in ("scale", "shift", "low", "high")
        )
        for part, values in (("scale", scale), ("shift", shift)):
            _all(values.isfinite(), f"{name}.{part} is not finite", values)
        _all(scale > 0, f"{name}.scale is not positive", scale)
        check_range(name, low.numpy(), high.numpy())
        known, flat = low.isfinite(), constant(low, high)
        reach = ((1 - shift) / scale).abs().maximum(((-1 - shift) / scale).abs())
        size = torch.maximum(low.abs(), high.abs())
        # a range below ``still_range`` keeps its unit, of which it uses little
        fits = reach <= REACH * torch.where(scale == 1, size.clamp(min=1), size)
        usual = (scale >= UNKNOWN_SCALES[0]) & (scale <= UNKNOWN_SCALES[1])
        near = torch.where(known, fits | flat, usual)
        _all(near, f"{name}.scale does not fit the range of the data", scale)
        self.settle()

    def settle(self) -> None:
        """Note what constant columns are kept within; after a change of the statistics."""
        flat = constant(self.low.double(), self.high.double())
        self._least.copy_(torch.where(flat, self.low, -torch.inf))
        self._most.copy_(torch.where(flat, self.high, torch.inf))

    def normalize(self, raw: Tensor) -> Tensor:
        """Map raw ``(..., D)`` to normalised ``(..., D)``."""
        return raw * self.scale + self.shift

    def unnormalize(self, value: Tensor) -> Tensor:
        """Map normalised ``(..., D)`` back to raw ``(..., D)``; what is constant stays so."""
        return ((value - self.shift) / self.scale).clamp(self._least, self._most)

    def excess(self, raw: Tensor) -> Tensor:
        """How far outside the data's range a value lies, in units of that range; 0 inside.

        Args:
            raw: ``(..., D)``.

        Returns:
            ``(..., D)``, non-negative. A constant dimension counts in its own raw unit.
        """
        return ((self.low - raw).clamp(min=0) + (raw - self.high).clamp(min=0)) / self.unit

    @property
    def unit(self) -> Tensor:
        """``(D,)`` what one range is in raw units: of a constant dimension the raw unit itself."""
        width = self.high - self.low
        # the data spans at least two normalised units in every dimension that is not constant
        return torch.where(width * self.scale > 1, width, torch.ones_like(width))


def constant(low: Tensor, high: Tensor) -> Tensor:
    """Say which columns do not change, whatever their unit.

    Args:
        low: ``(D,)`` float64, smallest values.
        high: ``(D,)`` largest values.

    Returns:
        ``(D,)`` bool: the range is below what float32 resolves at these values, within the rounding
        of float64 at the size of the largest column, or too small for a float32 scale.
    """
    size = torch.maximum(low.abs(), high.abs())
    known = size.isfinite()
    largest = torch.where(known, size, 0.0).max() if len(size) else size.new_zeros(())
    eps = torch.finfo(torch.float32).eps
    floor = torch.finfo(torch.float64).eps * STEPS * largest
    least = (STEPS * eps * size).maximum(floor).clamp(min=torch.finfo(torch.float32).tiny * 8)
    return known & (high - low <= least)


def _all(good: Tensor, what: str, values: Tensor) -> None:
    bad = (~good).nonzero().flatten()
    if len(bad):
        raise PcmError(f"{what} in dimension {int(bad[0])}: {float(values[bad[0]]):g}")

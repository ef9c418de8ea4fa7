"""Normalisers map data to the range that samplers clip to, and back."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.normalize import Normalizer, NormalizerMode

MODES: list[NormalizerMode] = ["minmax", "gaussian"]


def pixels(n: int = 200) -> Tensor:
    gen = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, generator=gen) * torch.tensor([512.0, 1.0, 0.01]) + torch.tensor(
        [0.0, -20.0, 5.0]
    )


def test_minmax_reaches_both_ends() -> None:
    data = pixels()
    value = Normalizer.fit(data).normalize(data)
    torch.testing.assert_close(value.amin(0), -torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(value.amax(0), torch.ones(3), atol=1e-3, rtol=0)


def test_gaussian_has_mean_zero_and_deviation_one() -> None:
    data = pixels()
    value = Normalizer.fit(data, "gaussian").normalize(data)
    torch.testing.assert_close(value.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(value.std(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


@settings(deadline=None)
@given(
    st.sampled_from(MODES),
    st.integers(2, 20),
    st.floats(1e-3, 1e4),
    st.floats(-10, 10),
    st.integers(0, 2**31),
)
def test_round_trip(mode: NormalizerMode, n: int, scale: float, offset: float, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    data = scale * (torch.rand(n, 4, generator=gen, dtype=torch.float64) + offset)
    normalizer = Normalizer.fit(data, mode).double()
    raw = scale * torch.randn(5, 3, 4, generator=gen, dtype=torch.float64)
    back = normalizer.unnormalize(normalizer.normalize(raw))
    torch.testing.assert_close(back, raw, rtol=1e-9, atol=1e-9 * scale * (1 + abs(offset)))
    inside = normalizer.normalize(data)
    if mode == "minmax":
        assert inside.abs().max() <= 1 + 1e-4 * (1 + abs(offset))


@pytest.mark.parametrize("mode", MODES)
def test_constant_dimensions_map_to_zero_and_keep_their_unit(mode: NormalizerMode) -> None:
    data = pixels()
    data[:, 1] = 7.25
    data[:, 2] = 5 + 4e-5 * torch.rand(len(data))  # rounding noise
    normalizer = Normalizer.fit(data, mode)
    value = normalizer.normalize(data)
    assert (value[:, 1] == 0).all()
    assert value[:, 2].abs().max() < 1e-4
    assert normalizer.normalize(data + 3)[:, 1].unique().tolist() == [3.0]
    torch.testing.assert_close(normalizer.unnormalize(value), data)
    wider = Normalizer.fit(data, mode, constant=1e-6)
    assert wider.normalize(data)[:, 2].abs().max() > 0.5


@pytest.mark.parametrize("mode", MODES)
def test_excess_is_the_distance_from_the_data_in_ranges(mode: NormalizerMode) -> None:
    data = torch.tensor([[0.0, -10.0, 2.0, 3.0], [4.0, 10.0, 2.0, 3.00005], [1.0, 0.0, 2.0, 3.0]])
    normalizer = Normalizer.fit(data, mode)
    assert (normalizer.excess(data) == 0).all()
    raw = torch.tensor([[[6.0, -10.0, 2.5, 3.0], [-4.0, 15.0, 1.0, 5.0]]])
    expected = torch.tensor([[[0.5, 0.0, 0.5, 0.0], [1.0, 0.25, 1.0, 2.0]]])
    torch.testing.assert_close(normalizer.excess(raw), expected, atol=1e-4, rtol=0)


def test_statistics_are_stored_with_the_weights() -> None:
    data = pixels()
    fitted, other = Normalizer.fit(data), Normalizer(3)
    assert torch.equal(other.normalize(data), data)
    other.load_state_dict(fitted.state_dict())
    assert set(fitted.state_dict()) == {"scale", "shift", "low", "high"}
    assert torch.equal(other.normalize(data), fitted.normalize(data))
    assert list(fitted.parameters()) == []
    assert torch.equal(other.low, data.amin(0))
    assert torch.equal(other.high, data.amax(0))


@pytest.mark.parametrize(
    ("data", "mode", "words"),
    [
        (torch.zeros(0, 3), "minmax", r"shape \(0, 3\)"),
        (torch.zeros(3), "minmax", r"shape \(3,\)"),
        (torch.tensor([[1.0, float("nan")]]), "minmax", "finite"),
        (torch.tensor([[1.0, float("inf")]]), "gaussian", "finite"),
        (torch.zeros(2, 3), "max", "unknown normaliser 'max'"),
    ],
)
def test_what_cannot_be_fitted(data: Tensor, mode: Any, words: str) -> None:
    with pytest.raises(PcmError, match=words):
        Normalizer.fit(data, mode)

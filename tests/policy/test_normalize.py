"""Normalisers: what the two modes promise, and how far outside the data a value lies."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.policy.normalize import Normalizer, NormalizerMode

MODES: list[NormalizerMode] = ["minmax", "gaussian"]


def rows(seed: int = 0, n: int = 200) -> Tensor:
    """Columns of very different place and size; the last one is constant."""
    gen = torch.Generator().manual_seed(seed)
    data = torch.randn(n, 4, generator=gen) * torch.tensor([1.0, 100.0, 0.01, 0.0])
    return data + torch.tensor([0.0, 250.0, -3.0, 42.0])


def test_minmax_maps_the_range_onto_minus_one_to_one() -> None:
    data = rows()
    norm = Normalizer.fit(data, "minmax")
    out = norm.normalize(data)
    moving = out[:, :3]
    torch.testing.assert_close(moving.amin(0), -torch.ones(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(moving.amax(0), torch.ones(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(norm.low, data.amin(0))
    torch.testing.assert_close(norm.high, data.amax(0))


def test_gaussian_maps_to_mean_zero_and_deviation_one() -> None:
    data = rows()
    moving = Normalizer.fit(data, "gaussian").normalize(data)[:, :3]
    torch.testing.assert_close(moving.mean(0), torch.zeros(3), rtol=0, atol=1e-3)
    torch.testing.assert_close(moving.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-3)


@given(
    st.sampled_from(MODES),
    st.floats(-100, 100),
    st.floats(0.1, 100),
    st.integers(1, 50),
    st.integers(0, 2**31),
)
def test_round_trip(mode: NormalizerMode, centre: float, spread: float, n: int, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    data = centre + spread * torch.randn(n, 3, generator=gen)
    norm = Normalizer.fit(data, mode)
    values = torch.randn(2, 5, 3, generator=gen)
    tolerance = 1e-5 * (abs(centre) + 4 * spread) * float(norm.scale.max().clamp(min=1))
    back = norm.unnormalize(norm.normalize(data))
    torch.testing.assert_close(back, data, rtol=0, atol=1e-5 * (abs(centre) + 10 * spread))
    if n > 1:  # one row is a constant, and stays one
        again = norm.normalize(norm.unnormalize(values))
        torch.testing.assert_close(again, values, rtol=0, atol=tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_dimension_maps_to_zero_and_keeps_its_unit(mode: NormalizerMode) -> None:
    norm = Normalizer.fit(rows(), mode)
    at = torch.tensor([[0.0, 250.0, -3.0, 42.0], [0.0, 250.0, -3.0, 43.5]])
    assert norm.normalize(at)[:, 3].tolist() == [0.0, 1.5]
    assert norm.unnormalize(torch.zeros(4))[3] == 42.0


@pytest.mark.parametrize("mode", MODES)
def test_jitter_counts_as_constant_where_the_unit_is_known(mode: NormalizerMode) -> None:
    data = torch.tensor([[0.0, 1.0], [5e-5, 2.0]])
    norm = Normalizer.fit(data, mode, still_range=1e-4)
    assert norm.scale[0] == 1.0
    assert norm.scale[1] == 2.0
    assert float(norm.normalize(data)[:, 0].abs().max()) < 1e-4
    assert Normalizer.fit(data, mode).scale[0] > 1e4


@given(st.sampled_from(MODES), st.floats(-30, 30), st.floats(-0.99, 0.99), st.integers(0, 99))
def test_no_unit_is_special(mode: NormalizerMode, power: float, off: float, seed: int) -> None:
    """Metres, micrometres or light years: the normalised values are the same."""
    gen = torch.Generator().manual_seed(seed)
    data = torch.rand(40, 3, generator=gen) + off
    unit = float(torch.tensor(10.0**power))
    plain, scaled = Normalizer.fit(data, mode), Normalizer.fit(data * unit, mode)
    assert (scaled.high > scaled.low).all()
    torch.testing.assert_close(
        scaled.normalize(data * unit), plain.normalize(data), rtol=0, atol=1e-4
    )
    value = torch.randn(5, 3, generator=gen).clamp(-1, 1)
    far = (scaled.unnormalize(value) / unit - plain.unnormalize(value)).abs().max()
    assert far <= 1e-4


@given(st.sampled_from(MODES), st.floats(1e-30, 1e30), st.sampled_from([0, 1, 3]))
def test_what_float32_cannot_tell_apart_is_constant(
    mode: NormalizerMode, size: float, steps: int
) -> None:
    """A few steps of float32 are rounding; predictions of such a column stay within them."""
    low = torch.tensor(size)
    high = low
    for _ in range(steps):
        high = torch.nextafter(high, torch.tensor(torch.inf))
    norm = Normalizer.fit(torch.stack([low, high])[:, None], mode)
    assert norm.scale.tolist() == [1.0]
    out = norm.unnormalize(torch.linspace(-3, 3, 7)[:, None])
    assert ((out >= low) & (out <= high)).all()


def test_rounding_around_zero_is_constant_beside_larger_columns() -> None:
    norm = Normalizer.fit(torch.tensor([[0.0, -1.0], [1e-17, 1.0]]))
    assert norm.scale.tolist() == [1.0, 1.0]
    assert Normalizer.fit(torch.tensor([[0.0], [1e-17]])).scale[0] > 1e16


bad_statistics = st.one_of(
    st.tuples(st.sampled_from(["scale", "shift"]), st.sampled_from([np.nan, np.inf, -np.inf])),
    st.tuples(st.just("scale"), st.floats(max_value=0, width=32)),
    st.tuples(st.just("scale"), st.sampled_from([1e-30, 1e-9])),
    st.tuples(st.just("shift"), st.sampled_from([1e30, -1e9])),
    st.tuples(st.just("low"), st.sampled_from([np.nan, np.inf, -np.inf, 600.0])),
    st.tuples(st.just("high"), st.sampled_from([np.nan, np.inf, -np.inf, -1.0])),
)


@given(bad_statistics, st.integers(0, 1), st.sampled_from(MODES))
def test_damaged_statistics_are_refused_by_name(
    case: tuple[str, float], column: int, mode: NormalizerMode
) -> None:
    norm = Normalizer.fit(torch.tensor([[0.0, 10.0], [512.0, 300.0]]), mode)
    state = norm.state_dict()
    name, value = case
    state[name] = state[name].clone()
    state[name][column] = value
    norm.load_state_dict(state)
    with pytest.raises(PcmError, match=rf"obs_normalizer.* in dimension {column}"):
        norm.check("obs_normalizer")


def test_statistics_are_taken_in_float64() -> None:
    """Far from zero, float32 sums would lose the deviation."""
    data = 1e7 + torch.tensor([0.0, 2.0]).repeat(70_001)[:, None]
    norm = Normalizer.fit(data, "gaussian")
    assert norm.scale.tolist() == [1.0]
    assert norm.shift.tolist() == [-10_000_001.0]


@pytest.mark.parametrize("mode", MODES)
def test_excess_is_the_distance_from_the_range_in_ranges(mode: NormalizerMode) -> None:
    norm = Normalizer.fit(torch.tensor([[0.0, -2.0, 5.0], [10.0, 2.0, 5.0]]), mode)
    raw = torch.tensor([[[0.0, -2.0, 5.0], [10.0, 2.0, 5.0]], [[-5.0, 4.0, 5.5], [30.0, 0.0, 2.0]]])
    expected = [[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [[0.5, 0.5, 0.5], [2.0, 0.0, 3.0]]]
    torch.testing.assert_close(norm.excess(raw), torch.tensor(expected))


@pytest.mark.parametrize("mode", MODES)
def test_excess_of_a_jittering_dimension_counts_in_its_own_unit(mode: NormalizerMode) -> None:
    """Sensor noise on a dimension that never moved is not out of range."""
    norm = Normalizer.fit(torch.tensor([[0.0, 0.0], [1e-6, 0.01]]), mode, still_range=1e-4)
    found = norm.excess(torch.tensor([[0.5, 0.02]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, 1.0]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "data",
    [
        torch.zeros(0, 2),
        torch.zeros(3),
        torch.zeros(3, 2, 1),
        torch.tensor([[0.0, np.nan]]),
        torch.tensor([[np.inf, 0.0]]),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(data: Tensor) -> None:
    with pytest.raises(PcmError, match=r"cannot normalise data of shape \(.*need finite rows"):
        Normalizer.fit(data)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(PcmError, match="unknown normaliser 'zscore'"):
        Normalizer.fit(rows(), "zscore")  # type: ignore[arg-type]


def test_everything_is_stored_with_the_weights() -> None:
    norm = Normalizer.fit(rows(), "minmax")
    fresh = Normalizer(4)
    assert torch.equal(fresh.normalize(rows()), rows())
    fresh.load_state_dict(norm.state_dict())
    assert torch.equal(fresh.normalize(rows(1)), norm.normalize(rows(1)))
    assert torch.equal(fresh.excess(rows(1)), norm.excess(rows(1)))
    assert not list(norm.parameters())

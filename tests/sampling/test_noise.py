"""Noise is a pure function of (episode, tick), and it is standard normal."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pcm_policy.sampling.noise import Noise, episode_noise, generator_noise

SHAPE = (4, 2)
names = st.tuples(st.integers(0, 2**31), st.integers(0, 10_000))


def draw(rows: Sequence[tuple[int, int]], steps: int = 3) -> Noise:
    return episode_noise([e for e, _ in rows], [k for _, k in rows], SHAPE, steps)


def steps_of(noise: Noise) -> Tensor:
    assert noise.steps is not None
    return noise.steps


@given(st.lists(names, min_size=1, max_size=6), st.integers(0, 5))
def test_a_row_depends_on_its_episode_and_tick_alone(
    rows: list[tuple[int, int]], position: int
) -> None:
    b = position % len(rows)
    together, alone = draw(rows), draw([rows[b]])
    assert torch.equal(together.initial[b], alone.initial[0])
    assert torch.equal(steps_of(together)[:, b], steps_of(alone)[:, 0])
    backwards = draw(rows[::-1])
    assert torch.equal(backwards.initial.flip(0), together.initial)
    assert torch.equal(steps_of(backwards).flip(1), steps_of(together))


def test_global_generators_are_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    first = draw([(3, 4)])
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(draw([(3, 4)]).initial, first.initial)
    torch.set_rng_state(state)
    draw([(3, 4)])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_numbers_stay_what_they_are() -> None:
    """Published comparisons depend on these streams."""
    noise = draw([(7, 11)])
    initial, step = noise.initial[0, 0], steps_of(noise)[0, 0, 0]
    torch.testing.assert_close(initial, torch.tensor([0.22085, 0.851116]), rtol=0, atol=1e-5)
    torch.testing.assert_close(step, torch.tensor([0.57154, -0.18682]), rtol=0, atol=1e-5)


def test_layout() -> None:
    noise = draw([(0, 0), (0, 1), (1, 0)], steps=5)
    assert noise.initial.shape == (3, 4, 2)
    assert steps_of(noise).shape == (5, 3, 4, 2)
    assert noise.initial.dtype == steps_of(noise).dtype == torch.float32
    assert steps_of(noise).is_contiguous()
    assert draw([(0, 0)], steps=0).steps is None
    moved = noise.to("cpu", torch.float64)
    assert moved.initial.dtype == steps_of(moved).dtype == torch.float64
    assert draw([(0, 0)], steps=0).to("cpu", torch.float64).steps is None


@pytest.mark.parametrize(("short", "long"), [(0, 5), (1, 5), (5, 100)])
def test_more_steps_only_add_to_the_end(short: int, long: int) -> None:
    rows = [(3, 9), (2**40, 1)]
    few, many = draw(rows, short), draw(rows, long)
    assert torch.equal(few.initial, many.initial)
    if short:
        assert torch.equal(steps_of(few), steps_of(many)[:short])


def test_every_stream_is_another_one() -> None:
    """Episodes, ticks, steps, and the initial noise against the step noise: no value twice."""
    rows = [(e, k) for e in range(20) for k in range(20)]
    noise = draw(rows, steps=2)
    everything = torch.cat([noise.initial, *steps_of(noise)]).flatten(1)
    assert everything[:, 0].unique().numel() == everything.shape[0]
    standard = everything / everything.norm(dim=1, keepdim=True)
    assert float((standard @ standard.T).fill_diagonal_(0).abs().max()) < 0.999


def test_streams_are_uncorrelated_and_standard_normal() -> None:
    n = 40_000  # the standard error of a correlation is 0.005
    rows = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    noise = episode_noise([e for e, _ in rows], [k for _, k in rows], (n, 1), 2)
    streams = torch.cat([noise.initial, *steps_of(noise)]).flatten(1).double()
    assert float(torch.corrcoef(streams).fill_diagonal_(0).abs().max()) < 0.025
    lagged = (streams[:, 1:] * streams[:, :-1]).mean(dim=1)
    assert float(lagged.abs().max()) < 0.025
    assert float(streams.mean(dim=1).abs().max()) < 0.025
    assert float((streams.var(dim=1) - 1).abs().max()) < 0.04
    assert float((streams**4).mean().sub(3).abs()) < 0.1
    # across episodes too, at one place of the chunk
    wide = episode_noise(range(5000), [0] * 5000, (1, 2)).initial[:, 0].double()
    assert float(torch.corrcoef(wide.T)[0, 1].abs()) < 0.07
    assert float((wide[1:, 0] * wide[:-1, 0]).mean().abs()) < 0.07
    assert float(wide.mean().abs()) < 0.05
    assert float((wide.var() - 1).abs()) < 0.1


def test_episodes_and_ticks_must_come_in_pairs() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        episode_noise([1, 2], [0], SHAPE)


def test_generator_noise_follows_its_generator() -> None:
    def make(steps: int) -> Noise:
        return generator_noise(torch.Generator().manual_seed(5), 3, SHAPE, steps)

    a, b = make(4), make(0)
    assert a.initial.shape == (3, 4, 2)
    assert steps_of(a).shape == (4, 3, 4, 2)
    assert b.steps is None
    assert torch.equal(a.initial, b.initial)
    gen = torch.Generator().manual_seed(5)
    first, second = generator_noise(gen, 3, SHAPE), generator_noise(gen, 3, SHAPE)
    assert torch.equal(first.initial, a.initial)
    assert not torch.equal(second.initial, first.initial)

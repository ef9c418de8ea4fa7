"""Noise is a pure function of who asks and when, so that solvers can be compared pairwise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.noise import Noise, episode_noise, generator_noise

SHAPE, STEPS = (4, 2), 5
askers = st.lists(
    st.tuples(st.integers(0, 2**40), st.integers(0, 2**20)), min_size=1, max_size=6, unique=True
)


def draw(pairs: list[tuple[int, int]], steps: int = STEPS) -> Noise:
    return episode_noise([e for e, _ in pairs], [t for _, t in pairs], SHAPE, steps)


def step_noise(noise: Noise) -> torch.Tensor:
    assert noise.steps is not None
    return noise.steps


@settings(deadline=None)
@given(askers, st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_batch(pairs: list[tuple[int, int]], random: object) -> None:
    whole = draw(pairs)
    assert whole.initial.shape == (len(pairs), *SHAPE)
    assert step_noise(whole).shape == (STEPS, len(pairs), *SHAPE)
    assert whole.initial.dtype == step_noise(whole).dtype == torch.float32
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = draw(shuffled)
    for b, pair in enumerate(pairs):
        at = shuffled.index(pair)
        for noise, row in ((draw([pair]), 0), (other, at)):
            assert torch.equal(noise.initial[row], whole.initial[b])
            assert torch.equal(step_noise(noise)[:, row], step_noise(whole)[:, b])


def test_every_episode_and_tick_has_noise_of_its_own() -> None:
    pairs = [(e, t) for e in (0, 1, 2, 3, 2**33) for t in (0, 1, 2, 3)]
    noise = draw(pairs)
    rows = torch.cat([noise.initial[None], step_noise(noise)]).flatten(0, 1).flatten(1)
    assert len(rows.unique(dim=0)) == len(rows) == len(pairs) * (STEPS + 1)


def test_numbers_never_change() -> None:
    """Published results hang on them; the values pin what the first release drew."""
    noise = episode_noise([7], [3], (1, 2), 1)
    expected = [0.6241955757, 0.4290523231, -1.2189453840, 0.0148067530]
    found = torch.cat([noise.initial.flatten(), step_noise(noise).flatten()])
    torch.testing.assert_close(found, torch.tensor(expected))


def test_initial_noise_does_not_depend_on_the_steps() -> None:
    none, few, many = (draw([(3, 1), (4, 0)], steps) for steps in (0, 4, 100))
    assert none.steps is None
    assert torch.equal(none.initial, few.initial)
    assert torch.equal(few.initial, many.initial)
    assert torch.equal(step_noise(many)[:4], step_noise(few))


def test_normal_and_uncorrelated() -> None:
    """Bounds are five standard errors: a right generator passes for all but one seed in 1e6."""
    n = 2000
    noise = episode_noise(range(n), [0] * n, SHAPE, 2)
    later = episode_noise(range(n), [1] * n, SHAPE, 2)
    x = noise.initial.flatten()
    bound = 5 / x.numel() ** 0.5
    assert abs(float(x.mean())) < bound
    assert abs(float(x.var()) - 1) < bound * 2**0.5
    assert abs(float((x**4).mean()) - 3) < bound * 96**0.5
    others = [*step_noise(noise), later.initial, *step_noise(later), noise.initial.roll(1, 0)]
    for other in (*others, noise.initial.roll(1, 2), noise.initial.roll(1, 1)):
        assert abs(float((x * other.flatten()).mean())) < bound


@pytest.mark.parametrize("ticks", [[0], [0, 1, 2]])
def test_episodes_and_ticks_belong_together(ticks: list[int]) -> None:
    with pytest.raises(ValueError, match="zip"):
        episode_noise([0, 1], ticks, SHAPE)


def test_generator_noise() -> None:
    first, again, plain = (
        generator_noise(torch.Generator().manual_seed(0), 3, SHAPE, steps) for steps in (2, 2, 0)
    )
    assert first.initial.shape == (3, *SHAPE)
    assert step_noise(first).shape == (2, 3, *SHAPE)
    assert torch.equal(first.initial, again.initial)
    assert torch.equal(step_noise(first), step_noise(again))
    assert torch.equal(first.initial, plain.initial)
    assert plain.steps is None
    assert not torch.equal(first.initial, step_noise(first)[0])


def test_to_moves_both_parts() -> None:
    noise = draw([(0, 0)]).to("cpu", torch.float64)
    assert noise.initial.dtype == step_noise(noise).dtype == torch.float64
    assert draw([(0, 0)], 0).to("cpu", torch.float64).steps is None

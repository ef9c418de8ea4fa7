"""What a known prefix does to a network's input, and which rows of a batch it belongs to."""

from dataclasses import replace

import torch

from pcm_policy.sampling.denoise import Denoiser, Prefix
from tests.problems import DA, B, T, problem


def known_first(batch: int) -> Prefix:
    """A prefix whose length differs from row to row."""
    step = torch.arange(T)[None, :, None]
    known = step < torch.arange(1, batch + 1)[:, None, None]
    values = torch.randn(batch, T, DA, generator=torch.Generator().manual_seed(2))
    return Prefix(values, known)


def shown(denoise: Denoiser, x: torch.Tensor) -> torch.Tensor:
    """Return what the network is shown."""
    seen = []

    def network(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    replace(denoise, network=network, encoded=None)(x, slice(0, 2))
    return seen[0].view_as(x)


def test_the_network_sees_its_noisy_input_unless_that_is_overwritten() -> None:
    denoise, _ = problem()
    prefix, x = known_first(B), torch.randn(2, B, T, DA)
    assert torch.equal(shown(replace(denoise, prefix=prefix), x), x)
    over = replace(prefix, overwrite_input=True)
    expected = torch.where(prefix.known, prefix.values, x)
    assert torch.equal(shown(replace(denoise, prefix=over), x), expected)


def test_picked_rows_keep_their_own_prefix() -> None:
    prefix, rows = known_first(B), torch.tensor([2, 0])
    chunk = torch.zeros(2, T, DA)
    whole = prefix.apply(torch.zeros(B, T, DA))
    assert torch.equal(prefix.pick(rows).apply(chunk), whole[rows])
    alike = replace(prefix, known=prefix.known[:1])
    assert torch.equal(alike.pick(rows).apply(chunk), alike.apply(torch.zeros(B, T, DA))[rows])

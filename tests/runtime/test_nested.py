"""Nested values come apart into tensors, and are built again of others."""

from dataclasses import replace

import torch
from torch import Tensor

from pcm_policy.runtime.inputs import Inputs
from pcm_policy.runtime.nested import flatten
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import Noise


def inputs(batch: int, prefix: Prefix | None = None) -> Inputs:
    gen = torch.Generator().manual_seed(batch)
    return Inputs(
        torch.randn(batch, 2, 3, generator=gen), Noise(torch.randn(batch, 4, 2)), None, prefix
    )


def test_it_is_built_again_of_other_tensors() -> None:
    known = Prefix(torch.zeros(2, 4, 2), torch.ones(1, 4, 1, dtype=torch.bool))
    value = (inputs(2, known), None, (torch.ones(3), 7, "a word"))
    tensors, _, build = flatten(value)
    assert len(tensors) == 5
    found, nothing, (ones, *rest) = build(iter([t * 0 for t in tensors]))
    assert nothing is None
    assert rest == [7, "a word"]
    assert not any(float(t.abs().max()) for t in (found.obs, found.noise.initial, ones))
    assert found.noise.steps is found.guess is None
    assert found.prefix.overwrite_input is False


def test_a_tensor_twice_is_two_places() -> None:
    tensor = torch.ones(1)
    found: tuple[Tensor, ...] = flatten((tensor, tensor))[2](iter([tensor, -tensor]))
    assert [float(t) for t in found] == [1.0, -1.0]


def test_the_kind_says_what_a_recording_is_made_for() -> None:
    """Shapes, what there is, and every value that is no tensor."""
    known = Prefix(torch.zeros(1, 4, 2), torch.ones(1, 4, 1, dtype=torch.bool))
    kinds = [
        inputs(1).shape,
        inputs(2).shape,
        replace(inputs(1), guess=torch.zeros(1, 4, 2)).shape,
        replace(inputs(1), obs=torch.zeros(1, 2, 3, dtype=torch.float64)).shape,
        inputs(1, known).shape,
        inputs(1, replace(known, overwrite_input=True)).shape,
    ]
    assert len(set(kinds)) == len(kinds)
    assert inputs(1).shape == replace(inputs(1), obs=torch.ones(1, 2, 3)).shape

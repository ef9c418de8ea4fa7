"""The diffusion transformer; its numbers are compared in tests/adopt/test_multi_task_dit.py."""

from typing import Any

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.networks import build_network
from tests.problems import randomize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10, "heads": 4}, "width 10 is no multiple of heads 4"),
        ({"width": 6, "heads": 2}, "a head has 3: use an even width / heads, or rope_base=0"),
        ({"rope_base": 0.5}, "rope_base=0.5: use at least 1, or 0"),
        ({"depth": 0}, "must be at least 1"),
        ({"step_embed_dim": 5}, "step_embed_dim=5"),
        ({"rope": 0}, "unexpected keyword argument 'rope'"),
    ],
)
def test_sizes_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PcmError, match=message):
        build_network("dit", 2, 8, 4, options)


def test_a_new_block_is_the_identity_and_every_part_is_trained() -> None:
    torch.manual_seed(0)
    options = {"width": 8, "heads": 2, "depth": 2, "positions": True, "fixed_dim": 3}
    net = build_network("dit", 2, 8, 4, options)
    x, t, cond = torch.randn(3, 8, 2), torch.arange(3), torch.randn(3, 4)
    straight = net.output_proj(net.input_proj(x) + net.positions)  # type: ignore[operator]
    torch.testing.assert_close(net(x, t, cond), straight)
    net.fixed.copy_(torch.ones(3))  # type: ignore[operator, union-attr]
    randomize(net, 1.0, 0)
    net.requires_grad_(True)
    net(x, t, cond).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    assert "fixed" in net.state_dict()


def test_time_that_runs_up_is_shown_turned_around() -> None:
    small = {"width": 8, "heads": 2, "depth": 1, "dropout": 0.0}
    nets = [build_network("dit", 2, 8, 4, small | {"ascending": up}) for up in (False, True)]
    randomize(nets[0], 1.0, 0)
    nets[1].load_state_dict(nets[0].state_dict())
    x, t, cond = torch.randn(3, 8, 2), torch.rand(3), torch.randn(3, 4)
    assert torch.equal(nets[0](x, 1 - t, cond), nets[1](x, t, cond))

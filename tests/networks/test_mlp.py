"""The residual MLP against a slow rewrite of its arithmetic."""

import math

import pytest
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.networks import build_network
from pcm_policy.networks.mlp import ResidualMLP

DA, T, C = 2, 4, 6


def build(depth: int = 2, expansion: int = 2, width: int = 24, embed: int = 16) -> ResidualMLP:
    torch.manual_seed(0)
    net = ResidualMLP(DA, T, C, width=width, depth=depth, expansion=expansion, step_embed_dim=embed)
    with torch.no_grad():  # a gate of zero would hide everything inside a block
        for p in net.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return net


def inputs(batch: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(1)
    x, cond = torch.randn(batch, T, DA, generator=gen), torch.randn(batch, C, generator=gen)
    return x, torch.tensor([0, 3, 50, 99, 7])[:batch], cond


def reference(state: dict[str, Tensor], depth: int, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
    """One row at a time, from a state dict alone, in basic operations."""

    def linear(name: str, v: Tensor) -> Tensor:
        return state[f"{name}.weight"] @ v + state[f"{name}.bias"]

    def silu(v: Tensor) -> Tensor:
        return v / (1 + torch.exp(-v))

    half = state["step.0.weight"].shape[1] // 2
    freqs = [math.exp(-math.log(10000.0) * i / (half - 1)) for i in range(half)]
    rows = []
    for b in range(x.shape[0]):
        angles = [int(t[b]) * w for w in freqs]
        embedded = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        step = silu(linear("step.0", torch.tensor(embedded, dtype=x.dtype)))
        seen = silu(linear("cond.2", silu(linear("cond.0", cond[b]))))
        c = silu(linear("mix.0", torch.cat([step, seen])))
        h = linear("inp", x[b].reshape(-1))
        for i in range(depth):
            width = h.shape[0]
            modulation = linear(f"blocks.{i}.modulation", c)
            shift, scale, gate = (modulation[j * width : (j + 1) * width] for j in range(3))
            centred = h - h.sum() / width
            normed = centred / torch.sqrt((centred**2).sum() / width + 1e-5)
            inner = silu(linear(f"blocks.{i}.up", shift + normed * (1 + scale)))
            h = h + gate * linear(f"blocks.{i}.down", inner)
        rows.append(linear("out", h).reshape(T, DA))
    return torch.stack(rows)


@pytest.mark.parametrize(("depth", "expansion"), [(1, 2), (3, 4), (0, 1)])
def test_forward_equals_the_slow_rewrite(depth: int, expansion: int) -> None:
    net = build(depth, expansion).double()
    x, t, cond = inputs()
    x, cond = x.double(), cond.double()
    with torch.no_grad():
        out = net(x, t, cond)
    expected = reference(net.state_dict(), depth, x, t, cond)
    assert out.shape == x.shape
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_rows_of_a_batch_are_independent() -> None:
    net = build()
    x, t, cond = inputs()
    with torch.no_grad():
        together = net(x, t, cond)
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.unique(dim=0).shape[0] == 5


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_every_input_matters(changed: int) -> None:
    net = build()
    values = list(inputs())
    with torch.no_grad():
        before = net(*values)
        values[changed] = values[changed] + 1
        after = net(*values)
    assert float((after - before).abs().amax(dim=(1, 2)).min()) > 1e-3


def test_every_parameter_and_input_receives_gradient() -> None:
    net = build()
    x, t, cond = inputs()
    x.requires_grad_()
    cond.requires_grad_()
    net(x, t, cond).square().sum().backward()
    for name, value in [("x", x), ("cond", cond), *net.named_parameters()]:
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name


def test_a_new_block_is_the_identity() -> None:
    net = ResidualMLP(DA, T, C, width=24, depth=2, step_embed_dim=16)
    h, c = torch.randn(3, 24), torch.randn(3, 16)
    for block in net.blocks:
        assert torch.equal(block(h, c), h)
    with torch.no_grad():
        net.blocks[0].modulation.bias.fill_(0.5)  # type: ignore[union-attr, operator]
    assert not torch.equal(net.blocks[0](h, c), h)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_pass_through(dtype: torch.dtype) -> None:
    net = build().to(dtype)
    x, t, cond = inputs()
    assert net(x.to(dtype), t, cond.to(dtype)).dtype == dtype


def test_build_network_names_what_is_wrong() -> None:
    assert isinstance(build_network("mlp", DA, T, C, {"width": 8}), ResidualMLP)
    with pytest.raises(PcmError, match="unknown network 'mpl': use one of mlp"):
        build_network("mpl", DA, T, C, {})
    with pytest.raises(PcmError, match=r"network 'mlp': .*widht"):
        build_network("mlp", DA, T, C, {"widht": 8})

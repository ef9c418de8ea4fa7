"""The U-Net against Diffusion Policy's layout and a slow rewrite of its arithmetic."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.networks.embedding import sinusoidal_embedding
from pcm_policy.networks.unet1d import ConditionalUnet1d

Shapes = dict[str, tuple[int, ...]]

SIZES = [
    pytest.param((16, 32, 48), 5, 8, True, id="film"),
    pytest.param((16, 32, 48), 3, 4, False, id="bias-only"),
    pytest.param((8, 16), 1, 8, True, id="two-levels"),
    pytest.param((24,), 3, 8, True, id="one-level"),
]


def layout(da: int, cond: int, dims: tuple[int, ...], k: int, film: bool, embed: int) -> Shapes:
    """Names and shapes of Diffusion Policy's state dict, written out from its documented layout."""
    shapes: Shapes = {}

    def weights(name: str, *weight: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = (weight[0] if bias is None else bias,)

    def residual(name: str, i: int, o: int) -> None:
        weights(f"{name}.blocks.0.block.0", o, i, k)
        weights(f"{name}.blocks.0.block.1", o)
        weights(f"{name}.blocks.1.block.0", o, o, k)
        weights(f"{name}.blocks.1.block.1", o)
        weights(f"{name}.cond_encoder.1", o * (2 if film else 1), embed + cond)
        if i != o:
            weights(f"{name}.residual_conv", o, i, 1)

    weights("diffusion_step_encoder.1", 4 * embed, embed)
    weights("diffusion_step_encoder.3", embed, 4 * embed)
    for n, o in enumerate(dims):
        residual(f"down_modules.{n}.0", dims[n - 1] if n else da, o)
        residual(f"down_modules.{n}.1", o, o)
        if n < len(dims) - 1:
            weights(f"down_modules.{n}.2.conv", o, o, 3)
    residual("mid_modules.0", dims[-1], dims[-1])
    residual("mid_modules.1", dims[-1], dims[-1])
    for n in range(len(dims) - 1):
        i, o = dims[-1 - n], dims[-2 - n]
        residual(f"up_modules.{n}.0", 2 * i, o)
        residual(f"up_modules.{n}.1", o, o)
        weights(f"up_modules.{n}.2.conv", o, o, 4)
    weights("final_conv.0.block.0", dims[0], dims[0], k)
    weights("final_conv.0.block.1", dims[0])
    weights("final_conv.1", da, dims[0], 1)
    return shapes


class Reference:
    """The same network from a state dict alone, in basic operations."""

    def __init__(self, state: dict[str, Tensor], levels: int, groups: int, film: bool) -> None:
        self.state, self.levels, self.groups, self.film = state, levels, groups, film

    def get(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def mish(self, x: Tensor) -> Tensor:
        return x * torch.tanh(torch.log1p(torch.exp(x)))

    def conv_block(self, x: Tensor, name: str, groups: int) -> Tensor:
        weight, bias = self.get(f"{name}.block.0")
        x = F.conv1d(F.pad(x, (weight.shape[2] // 2,) * 2), weight, bias)
        grouped = x.reshape(x.shape[0], groups, -1)
        mean = grouped.mean(-1, keepdim=True)
        var = ((grouped - mean) ** 2).mean(-1, keepdim=True)
        x = ((grouped - mean) / torch.sqrt(var + 1e-5)).reshape(x.shape)
        gain, offset = self.get(f"{name}.block.1")
        return self.mish(x * gain[:, None] + offset[:, None])

    def residual(self, x: Tensor, cond: Tensor, name: str) -> Tensor:
        h = self.conv_block(x, f"{name}.blocks.0", self.groups)
        weight, bias = self.get(f"{name}.cond_encoder.1")
        film = self.mish(cond) @ weight.T + bias
        if self.film:
            channels = h.shape[1]
            h = film[:, :channels, None] * h + film[:, channels:, None]
        else:
            h = h + film[:, :, None]
        h = self.conv_block(h, f"{name}.blocks.1", self.groups)
        if f"{name}.residual_conv.weight" in self.state:
            x = F.conv1d(x, *self.get(f"{name}.residual_conv"))
        return h + x

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        weight, bias = self.get("diffusion_step_encoder.1")
        half = weight.shape[1] // 2
        freqs = [math.exp(-math.log(10000.0) * i / (half - 1)) for i in range(half)]
        rows = [[f(int(s) * w) for f in (math.sin, math.cos) for w in freqs] for s in t]
        step = self.mish(torch.tensor(rows, dtype=x.dtype) @ weight.T + bias)
        weight, bias = self.get("diffusion_step_encoder.3")
        cond = torch.cat([step @ weight.T + bias, cond], 1)
        h = x.permute(0, 2, 1)
        skips = []
        for n in range(self.levels):
            h = self.residual(h, cond, f"down_modules.{n}.0")
            h = self.residual(h, cond, f"down_modules.{n}.1")
            skips.append(h)
            if n < self.levels - 1:
                h = F.conv1d(h, *self.get(f"down_modules.{n}.2.conv"), stride=2, padding=1)
        for n in range(2):
            h = self.residual(h, cond, f"mid_modules.{n}")
        for n in range(self.levels - 1):
            h = torch.cat([h, skips[-1 - n]], 1)
            h = self.residual(h, cond, f"up_modules.{n}.0")
            h = self.residual(h, cond, f"up_modules.{n}.1")
            h = F.conv_transpose1d(h, *self.get(f"up_modules.{n}.2.conv"), stride=2, padding=1)
        h = self.conv_block(h, "final_conv.0", 8)
        return F.conv1d(h, *self.get("final_conv.1")).permute(0, 2, 1)


def build(dims: tuple[int, ...], k: int, groups: int, film: bool) -> ConditionalUnet1d:
    torch.manual_seed(0)
    net = ConditionalUnet1d(
        2,
        16,
        6,
        down_dims=dims,
        kernel_size=k,
        n_groups=groups,
        cond_predict_scale=film,
        step_embed_dim=32,
    )
    with torch.no_grad():  # norms that start as the identity would hide a wrong gain or offset
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net


def inputs(batch: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(1)
    x, cond = torch.randn(batch, 16, 2, generator=gen), torch.randn(batch, 6, generator=gen)
    return x, torch.tensor([0, 3, 50, 99, 7])[:batch], cond


@pytest.mark.parametrize(("dims", "k", "groups", "film"), SIZES)
def test_state_dict_has_the_names_and_shapes_of_diffusion_policy(
    dims: tuple[int, ...], k: int, groups: int, film: bool
) -> None:
    state = build(dims, k, groups, film).state_dict()
    assert {name: tuple(v.shape) for name, v in state.items()} == layout(2, 6, dims, k, film, 32)


@pytest.mark.parametrize(
    ("cond", "dims", "film", "count"),
    [
        (10, (256, 512, 1024), True, 65_353_218),  # Push-T state: 2 observations of 5 numbers
        (40, (256, 512, 1024), True, 65_783_298),  # Push-T keypoints: 2 of 20
        (40, (64, 128, 256), True, 5_412_162),
        (40, (256, 512, 1024), False, 63_654_402),
    ],
)
def test_parameter_count(cond: int, dims: tuple[int, ...], film: bool, count: int) -> None:
    with torch.device("meta"):
        net = ConditionalUnet1d(
            2, 16, cond, down_dims=dims, cond_predict_scale=film, step_embed_dim=256
        )
    assert sum(p.numel() for p in net.parameters()) == count
    expected = layout(2, cond, dims, 5, film, 256)
    assert {name: tuple(v.shape) for name, v in net.state_dict().items()} == expected


@pytest.mark.parametrize(("dims", "k", "groups", "film"), SIZES)
def test_forward_equals_the_slow_rewrite(
    dims: tuple[int, ...], k: int, groups: int, film: bool
) -> None:
    net = build(dims, k, groups, film).double()
    x, t, cond = inputs()
    x, cond = x.double(), cond.double()
    with torch.no_grad():
        out = net(x, t, cond)
    assert out.shape == x.shape
    expected = Reference(net.state_dict(), len(dims), groups, film)(x, t, cond)
    assert expected.std() > 0.1
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)


def test_rows_of_a_batch_are_independent() -> None:
    net = build((16, 32, 48), 5, 8, True)
    x, t, cond = inputs()
    with torch.no_grad():
        together = net(x, t, cond)
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together.unique(dim=0).shape[0] == 5


def test_every_parameter_and_input_receives_gradient() -> None:
    net = build((16, 32, 48), 5, 8, True)
    x, t, cond = inputs()
    x.requires_grad_()
    cond.requires_grad_()
    net(x, t, cond).square().sum().backward()
    for name, value in [("x", x), ("cond", cond), *net.named_parameters()]:
        assert value.grad is not None, name
        assert value.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("horizon", "options", "match"),
    [
        (10, {}, "horizon 10 is not a positive multiple of 4"),
        (0, {}, "horizon 0"),
        (16, {"down_dims": (16, 36)}, "36, not a positive multiple of n_groups 8"),
        (16, {"down_dims": (12, 24), "n_groups": 4}, "12, not a multiple of 8"),
        (16, {"down_dims": ()}, "down_dims is empty"),
        (16, {"kernel_size": 4}, "kernel_size 4 must be odd"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    horizon: int, options: dict[str, tuple[int, ...] | int], match: str
) -> None:
    with pytest.raises(PcmError, match=match):
        ConditionalUnet1d(2, horizon, 6, **{"down_dims": (16, 32, 48), **options})  # type: ignore[arg-type]


def test_embedding_reaches_both_ends_of_its_frequencies() -> None:
    t = torch.tensor([0, 1, 250])
    out = sinusoidal_embedding(t, 8)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(out[:, 0], t.float().sin())
    torch.testing.assert_close(out[:, 7], (t * 1e-4).cos())


@pytest.mark.parametrize("dim", [2, 7])
def test_embedding_refuses_widths_without_a_formula(dim: int) -> None:
    with pytest.raises(PcmError, match="use an even number of at least 4"):
        sinusoidal_embedding(torch.zeros(1), dim)

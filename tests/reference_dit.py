"""LeRobot's multi_task_dit written out from its state dict: its transformer and CLIP's towers.

Under LeRobot's names, one condition a call, a layer's modulation by a layer of its own, turns as
complex numbers, attention as a softmax. Nothing of ours.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
LN = 1e-5


def _linear(s: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Heads side by side in ``(B, T, width)``; a mask is added to the scores."""
    parts = []
    for one in zip(*(x.chunk(heads, -1) for x in (q, k, v)), strict=True):
        score = one[0] @ one[1].mT / one[0].shape[-1] ** 0.5
        score = score if mask is None else score + mask
        parts.append(score.softmax(-1) @ one[2])
    return torch.cat(parts, -1)


def turned(x: Tensor, heads: int, base: float) -> Tensor:
    """Rotate number i and number i + half of every head by an angle of the place."""
    found = []
    for part in x.chunk(heads, -1):
        half = part.shape[-1] // 2
        speed = base ** -(torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[1])[:, None] * speed
        pairs = torch.complex(*part.double().split(half, -1)) * torch.polar(angle * 0 + 1, angle)
        found.append(torch.cat([pairs.real, pairs.imag], -1).to(x.dtype))
    return torch.cat(found, -1)


def noise_predictor(
    s: Mapping[str, Tensor], x: Tensor, t: Tensor, cond: Tensor, heads: int, base: float
) -> Tensor:
    """``DiffusionTransformer.forward``; ``base`` of the turns, 0 for ``multihead_attn``."""
    half = s["time_mlp.1.weight"].shape[1] // 2
    speed = torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
    at = t[:, None].float() * speed
    step = torch.cat([at.sin(), at.cos()], -1).to(x.dtype)
    step = F.gelu(_linear(s, "time_mlp.3", F.gelu(_linear(s, "time_mlp.1", step))))
    seen = F.silu(torch.cat([step, cond], -1))
    h = _linear(s, "input_proj", x)
    h = h + s["pos_embedding"] if "pos_embedding" in s else h
    for i in range(sum(k.endswith("mlp.0.weight") for k in s)):
        at_block = f"transformer_blocks.{i}."
        films = _linear(s, f"{at_block}adaLN_modulation.1", seen)[:, None].chunk(6, -1)
        y = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + films[1]) + films[0]
        if base:
            q, k, v = _linear(s, f"{at_block}attn.qkv_proj", y).chunk(3, -1)
            q, k = turned(q, heads, base), turned(k, heads, base)
            y = _linear(s, f"{at_block}attn.out_proj", attention(q, k, v, heads))
        else:
            name = f"{at_block}multihead_attn."
            both = F.linear(y, s[f"{name}in_proj_weight"], s[f"{name}in_proj_bias"])
            y = _linear(s, f"{name}out_proj", attention(*both.chunk(3, -1), heads))
        h = h + films[2] * y
        y = F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + films[4]) + films[3]
        y = F.gelu(_linear(s, f"{at_block}mlp.0", y), approximate="tanh")
        h = h + films[5] * _linear(s, f"{at_block}mlp.2", y)
    return _linear(s, "output_proj", h)


def _tower(
    s: Mapping[str, Tensor], h: Tensor, heads: int, quick: bool, mask: Tensor | None
) -> Tensor:
    width = h.shape[-1:]
    for i in range(sum(k.endswith("mlp.fc1.weight") for k in s)):
        at = f"encoder.layers.{i}."

        def normed(x: Tensor, j: int, at: str = at) -> Tensor:
            name = f"{at}layer_norm{j}"
            return F.layer_norm(x, width, s[f"{name}.weight"], s[f"{name}.bias"], LN)

        y = normed(h, 1)
        parts = [_linear(s, f"{at}self_attn.{part}_proj", y) for part in "qkv"]
        h = h + _linear(s, f"{at}self_attn.out_proj", attention(*parts, heads, mask))
        y = _linear(s, f"{at}mlp.fc1", normed(h, 2))
        h = h + _linear(s, f"{at}mlp.fc2", y * torch.sigmoid(1.702 * y) if quick else F.gelu(y))
    return h


def clip_vision(s: Mapping[str, Tensor], x: Tensor, heads: int, quick: bool = True) -> Tensor:
    """``CLIPVisionModel``'s class token, ``(B, 3, H, W)`` to ``(B, width)``."""
    weight = s["embeddings.patch_embedding.weight"]
    patches = F.conv2d(x, weight, stride=weight.shape[-1]).flatten(2).mT
    first = s["embeddings.class_embedding"].expand(len(x), 1, -1)
    h = torch.cat([first, patches], 1) + s["embeddings.position_embedding.weight"]
    h = F.layer_norm(h, h.shape[-1:], s["pre_layrnorm.weight"], s["pre_layrnorm.bias"], LN)
    return _tower(s, h, heads, quick, None)[:, 0]


def clip_text(s: Mapping[str, Tensor], ids: list[int], end: int, heads: int) -> Tensor:
    """``CLIPTextModel``'s pooled output, ``(width,)``; ``end`` is the place of the last token."""
    places = s["embeddings.position_embedding.weight"][: len(ids)]
    h = (s["embeddings.token_embedding.weight"][ids] + places)[None]
    mask = torch.full((len(ids), len(ids)), float("-inf"), dtype=h.dtype).triu(1)
    h = _tower(s, h, heads, True, mask)
    name = "final_layer_norm"
    return F.layer_norm(h, h.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], LN)[0, end]


class Drawn:
    """Weights drawn one after another."""

    def __init__(self, seed: int) -> None:
        self.generator, self.found = torch.Generator().manual_seed(seed), State()

    def add(self, name: str, *shape: int, around: float = 0.0) -> None:
        """Draw one, of a size that keeps numbers of size 1."""
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.3
        self.found[name] = around + scale * torch.randn(shape, generator=self.generator)

    def linear(self, name: str, outer: int, inner: int) -> None:
        """Draw weight and bias."""
        self.add(f"{name}.weight", outer, inner)
        self.add(f"{name}.bias", outer)

    def norm(self, name: str, width: int) -> None:
        """Draw weight and bias of a norm."""
        self.add(f"{name}.weight", width, around=1.0)
        self.add(f"{name}.bias", width)


def draw_predictor(
    seed: int, dim: int, width: int, depth: int, step: int, cond: int, tokens: int, rope: bool
) -> State:
    """Weights of a noise predictor; without ``rope`` it has ``tokens`` places."""
    w = Drawn(seed)
    w.linear("time_mlp.1", 2 * step, step)
    w.linear("time_mlp.3", step, 2 * step)
    w.linear("input_proj", width, dim)
    w.linear("output_proj", dim, width)
    if not rope:
        w.add("pos_embedding", 1, tokens, width)
    for i in range(depth):
        at = f"transformer_blocks.{i}."
        if rope:
            w.linear(f"{at}attn.qkv_proj", 3 * width, width)
        else:
            w.add(f"{at}multihead_attn.in_proj_weight", 3 * width, width)
            w.add(f"{at}multihead_attn.in_proj_bias", 3 * width)
        w.linear(f"{at}{'attn' if rope else 'multihead_attn'}.out_proj", width, width)
        w.linear(f"{at}mlp.0", 4 * width, width)
        w.linear(f"{at}mlp.2", width, 4 * width)
        w.linear(f"{at}adaLN_modulation.1", 6 * width, step + cond)
    return w.found


def draw_tower(seed: int, width: int, inner: int, depth: int) -> Drawn:
    """Weights of a tower's layers."""
    w = Drawn(seed)
    for i in range(depth):
        at = f"encoder.layers.{i}."
        for part in (*"qkv", "out"):
            w.linear(f"{at}self_attn.{part}_proj", width, width)
        w.norm(f"{at}layer_norm1", width)
        w.norm(f"{at}layer_norm2", width)
        w.linear(f"{at}mlp.fc1", inner, width)
        w.linear(f"{at}mlp.fc2", width, inner)
    return w


def draw_vision(seed: int, width: int = 12, patch: int = 8, patches: int = 16) -> State:
    """Weights of a vision tower with two layers."""
    w = draw_tower(seed, width, 20, 2)
    w.add("embeddings.class_embedding", width)
    w.add("embeddings.patch_embedding.weight", width, 3, patch, patch)
    w.add("embeddings.position_embedding.weight", patches + 1, width)
    w.norm("pre_layrnorm", width)
    w.norm("post_layernorm", width)
    return w.found


def draw_text(seed: int, width: int = 16, words: int = 12, places: int = 8) -> State:
    """Weights of a text tower with two layers."""
    w = draw_tower(seed, width, 20, 2)
    w.add("embeddings.token_embedding.weight", words, width)
    w.add("embeddings.position_embedding.weight", places, width)
    w.norm("final_layer_norm", width)
    return w.found

"""The two towers of CLIP (Radford et al. 2021): images, and token ids, to one vector each.

Layers and arithmetic are those of ``CLIPVisionModel`` and ``CLIPTextModel`` in transformers, whose
weights :mod:`pcm_policy.adopt.clip` renames. Of the images the vector is the class token after the
last layer (no last norm, no projection), as LeRobot's ``multi_task_dit`` takes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from pcm_policy.checks import number, whole
from pcm_policy.errors import PcmError
from pcm_policy.networks.attention import Change, EncoderLayer

_MOST = 100_000
_DEPTH = 1024


def quick_gelu(x: Tensor) -> Tensor:
    """Return ``x sigmoid(1.702 x)``, the approximation that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: Mapping[str, Change] = {"quick_gelu": quick_gelu, "gelu": gelu}


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of a tower.

    Attributes:
        width: of its tokens, a multiple of ``heads``.
        depth: number of layers.
        heads: of every attention.
        inner: width between the two linear layers of a layer.
        activation: between them, ``quick_gelu`` or ``gelu``.
        eps: of the norms.
        patch: pixels of a patch's side; of a text tower 0.
        positions: tokens that have an embedding of their place: patches and the class token, or the
            longest text.

    Raises:
        PcmError: a value of another type or out of range.
    """

    width: int
    depth: int
    heads: int
    inner: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    patch: int = 0
    positions: int = 1

    def __post_init__(self) -> None:
        for name, least, most in (
            *((name, 1, _MOST) for name in ("width", "inner", "heads", "positions")),
            ("depth", 0, _DEPTH),
            ("patch", 0, _MOST),
        ):
            whole(f"vit.{name}", getattr(self, name), least, most)
        number("vit.eps", self.eps, 0, 1)
        if self.width % self.heads:
            raise PcmError(f"vit.width={self.width} is no multiple of vit.heads={self.heads}")
        if self.activation not in ACTIVATIONS:
            raise PcmError(f"vit.activation={self.activation!r}: use {' or '.join(ACTIVATIONS)}")

    def layers(self) -> nn.ModuleList:
        """Build the layers."""
        activation = ACTIVATIONS[self.activation]
        made = (
            EncoderLayer(self.width, self.heads, 0.0, self.inner, activation, self.eps)
            for _ in range(self.depth)
        )
        return nn.ModuleList(made)


class VisionTower(nn.Module):
    """``(B, 3, H, W)`` normalised images to ``(B, width, 1, 1)``, a feature map of one place.

    Args:
        config: its sizes.
        size: height and width of the images.

    Raises:
        PcmError: images that have another number of patches than there are places.
    """

    def __init__(self, config: TowerConfig, size: tuple[int, int]) -> None:
        super().__init__()
        patch, width = whole("vit.patch", config.patch, 1, _MOST), config.width
        rows, columns = (n // patch for n in size)
        if rows * columns + 1 != config.positions:
            raise PcmError(
                f"images of {size[0]} x {size[1]} have {rows * columns} patches of {patch} pixels, "
                f"the encoder was made for {config.positions - 1}: its crop or resize is another"
            )
        self.class_embedding = nn.Parameter(torch.randn(width) * 0.02)
        self.patch_embedding = nn.Conv2d(3, width, patch, patch, bias=False)
        self.position_embedding = nn.Parameter(torch.randn(config.positions, width) * 0.02)
        self.pre_norm = nn.LayerNorm(width, config.eps)
        self.layers = config.layers()

    def forward(self, x: Tensor) -> Tensor:
        """Return the class token after the last layer."""
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        h = self.pre_norm(torch.cat([first, patches], dim=1) + self.position_embedding)
        for layer in self.layers:
            h = layer(h)
        token: Tensor = h[:, 0, :, None, None]
        return token


class TextTower(nn.Module):
    """``(B, L)`` token ids to ``(B, width)``: the token that ends a text, which sees all of it.

    Args:
        config: its sizes.
        vocabulary: number of token ids.
    """

    def __init__(self, config: TowerConfig, vocabulary: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocabulary, config.width)
        self.position_embedding = nn.Parameter(torch.randn(config.positions, config.width) * 0.01)
        self.layers = config.layers()
        self.final_norm = nn.LayerNorm(config.width, config.eps)

    def forward(self, tokens: Tensor, end: Tensor) -> Tensor:
        """Return the vectors of texts.

        Args:
            tokens: ``(B, L)``.
            end: ``(B,)`` place of the token that ends each text.
        """
        length = tokens.shape[1]
        h = self.token_embedding(tokens) + self.position_embedding[:length]
        earlier = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        for layer in self.layers:
            h = layer(h, earlier)
        result: Tensor = self.final_norm(h)[torch.arange(len(h)), end]
        return result

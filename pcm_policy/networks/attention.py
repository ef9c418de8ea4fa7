"""Pre-norm attention layers whose cross-attention takes keys and values made ahead.

Parameter names, shapes and arithmetic are those of ``torch.nn.TransformerEncoderLayer`` and
``TransformerDecoderLayer`` with ``norm_first=True``, ``batch_first=True`` and GELU, so that their
state dicts load here unchanged. Those layers project a decoder's memory anew in every call; here it
is projected once by :meth:`DecoderLayer.remember` and used in every round of a solve.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

Change = Callable[[Tensor], Tensor]


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017), parameters as in ``nn.MultiheadAttention``.

    Args:
        width: of the tokens, a multiple of ``heads``.
        heads: number of heads.
        dropout: share of the attention weights that training leaves out.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width).normal_(std=0.02))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def keys_values(self, tokens: Tensor) -> Tensor:
        """Map ``(..., width)`` tokens to their keys and values side by side, ``(..., 2 width)``."""
        width = tokens.shape[-1]
        return linear(tokens, self.in_proj_weight[width:], self.in_proj_bias[width:])

    def itself(self, x: Tensor, mask: Tensor | None, turn: Change | None = None) -> Tensor:
        """Let ``(B, T, width)`` tokens attend to each other where the ``(T, T)`` mask is true.

        Args:
            x: the tokens.
            mask: which token sees which; None for all.
            turn: changes queries and keys, ``(B, heads, T, width / heads)``, by their places.
        """
        query, key, value = linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self._attend(query, key, value, mask, turn)

    def other(self, x: Tensor, remembered: Tensor, mask: Tensor | None) -> Tensor:
        """Let ``(B, T, width)`` tokens attend to ``(B, S, 2 width)`` from :meth:`keys_values`."""
        width = x.shape[-1]
        query = linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
        key, value = remembered.chunk(2, dim=-1)
        return self._attend(query, key, value, mask)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        turn: Change | None = None,
    ) -> Tensor:
        q, k, v = (
            part.view(*part.shape[:2], self.heads, -1).transpose(1, 2)
            for part in (query, key, value)
        )
        if turn is not None:
            q, k = turn(q), turn(k)
        dropout = self.dropout if self.training else 0.0
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        result: Tensor = self.out_proj(found.transpose(1, 2).flatten(2))
        return result


class EncoderLayer(nn.Module):
    """Self-attention, then two linear layers, each with layer norm before and a shortcut around.

    Args:
        width: of the tokens, a multiple of ``heads``.
        heads: number of heads.
        dropout: of attention weights and of what is added to the tokens.
        inner: width between the two linear layers; None for ``4 width``.
        activation: between them.
        eps: of the norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float,
        inner: int | None = None,
        activation: Change = gelu,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        inner = inner or 4 * width
        self.self_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.drop = nn.Dropout(dropout)
        self.activation = activation

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map ``(B, T, width)`` tokens to the same shape; ``mask`` as in :class:`Attention`."""
        x = x + self.drop(self.self_attn.itself(self.norm1(x), mask))
        inner = self.drop(self.activation(self.linear1(self.norm2(x))))
        out: Tensor = x + self.drop(self.linear2(inner))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to a memory, then two linear layers, like :class:`EncoderLayer`."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.multihead_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def remember(self, memory: Tensor) -> Tensor:
        """Map ``(..., width)`` tokens of the memory to what the layer reads, ``(..., 2 width)``."""
        return self.multihead_attn.keys_values(memory)

    def forward(
        self, x: Tensor, remembered: Tensor, mask: Tensor | None, memory_mask: Tensor | None
    ) -> Tensor:
        """Map ``(B, T, width)`` tokens, given ``(B, S, 2 width)`` from :meth:`remember`."""
        x = x + self.drop(self.self_attn.itself(self.norm1(x), mask))
        x = x + self.drop(self.multihead_attn.other(self.norm2(x), remembered, memory_mask))
        inner = self.drop(gelu(self.linear1(self.norm3(x))))
        out: Tensor = x + self.drop(self.linear2(inner))
        return out


class Layers(nn.Module):
    """A stack of layers under the name that ``nn.TransformerEncoder`` and ``-Decoder`` give it."""

    def __init__(self, layers: list[EncoderLayer] | list[DecoderLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

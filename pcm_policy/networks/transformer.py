"""The denoising transformer of Diffusion Policy (Chi et al., RSS 2023).

Every step of the chunk is a token. In its usual form, a decoder, the diffusion step and each
observation are tokens of a memory: the step first, then the observations, oldest first. With
``causal_attn`` a step of the chunk attends to itself and earlier ones, and in the memory to the
diffusion step and to the observations of its own time and before. Without ``time_as_cond`` there is
no memory: the diffusion step is a token before the chunk's (an encoder alone, as in BERT).

Parameter names and shapes are those of ``TransformerForDiffusion`` in
real-stanford/diffusion_policy; its masks, which a state dict holds as well, are made here.

The memory does not depend on the chunk: ``encode`` computes what every decoder layer reads of it.
"""

from collections.abc import Iterable
from typing import Annotated, cast

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.networks.attention import DecoderLayer, EncoderLayer, Layers
from pcm_policy.networks.embedding import leading, sinusoidal_embedding
from pcm_policy.settings import Count, Depth, Range, Width

Dropped = Annotated[float, Range(least=0, below=1)]


class DenoisingTransformer(nn.Module):
    """Denoiser over action chunks: ``forward(x, t, cond)`` with one timestep a row.

    Args:
        action_dim: numbers in one step of the chunk, Da.
        horizon: chunk length T.
        cond_dim: width C of the condition, ``obs_steps`` observations side by side; 0 for none.
        obs_steps: tokens that the condition is cut into.
        n_layer: layers of the decoder, or of the encoder where there is no decoder.
        n_head: heads of every attention.
        n_emb: width of the tokens, a multiple of ``n_head``.
        n_cond_layers: layers of the memory's encoder; 0: two linear layers, a token at a time.
        causal_attn: whether the chunk's steps attend to nothing later than themselves.
        time_as_cond: whether the diffusion step is a token of the memory; false: of the chunk.
        p_drop_emb: dropout of the tokens, in training.
        p_drop_attn: dropout of the layers, in training.

    Example:
        >>> import torch
        >>> from pcm_policy.networks import build_network
        >>> options = {"obs_steps": 2, "n_layer": 1, "n_emb": 16, "n_head": 2}
        >>> network = build_network("transformer", 2, 16, 40, options)  # Da, T, C
        >>> network(torch.zeros(3, 16, 2), torch.zeros(3), torch.zeros(3, 40)).shape
        torch.Size([3, 16, 2])
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        *,
        obs_steps: Count = 2,
        n_layer: Depth = 4,
        n_head: Depth = 4,
        n_emb: Width = 128,
        n_cond_layers: Annotated[int, Range(least=0, most=1024)] = 0,
        causal_attn: bool = True,
        time_as_cond: bool = True,
        p_drop_emb: Dropped = 0.0,
        p_drop_attn: Dropped = 0.01,
    ) -> None:
        super().__init__()
        _check(cond_dim, obs_steps, n_layer, n_head, n_emb, n_cond_layers, time_as_cond)
        self.n_emb, self.n_layer, self.obs_steps = n_emb, n_layer, obs_steps
        self.obs_tokens = obs_steps if cond_dim else 0
        tokens = horizon if time_as_cond else horizon + 1
        size = (n_emb, n_head, p_drop_attn)
        self.input_emb = nn.Linear(action_dim, n_emb)
        self.pos_emb = nn.Parameter(torch.empty(1, tokens, n_emb).normal_(std=0.02))
        self.drop = nn.Dropout(p_drop_emb)
        self.decoder: Layers | None = None
        self.cond_obs_emb: nn.Linear | None = None
        self.encoder: nn.Module
        if time_as_cond:
            self.cond_pos_emb = nn.Parameter(torch.zeros(1, 1 + self.obs_tokens, n_emb))
            if cond_dim:
                self.cond_obs_emb = nn.Linear(cond_dim // obs_steps, n_emb)
                nn.init.normal_(self.cond_pos_emb, std=0.02)
            if n_cond_layers:
                self.encoder = Layers([EncoderLayer(*size) for _ in range(n_cond_layers)])
            else:
                wide = 4 * n_emb
                self.encoder = nn.Sequential(
                    nn.Linear(n_emb, wide), nn.Mish(), nn.Linear(wide, n_emb)
                )
            self.decoder = Layers([DecoderLayer(*size) for _ in range(n_layer)])
        else:
            self.encoder = Layers([EncoderLayer(*size) for _ in range(n_layer)])
        self.ln_f = nn.LayerNorm(n_emb)
        self.head = nn.Linear(n_emb, action_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        earlier = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        seen = torch.ones(horizon, 1 + self.obs_tokens, dtype=torch.bool).tril(1)
        self.mask: Tensor | None
        self.memory_mask: Tensor | None
        self.register_buffer("mask", earlier if causal_attn else None, persistent=False)
        masked = causal_attn and self.obs_tokens > 0
        self.register_buffer("memory_mask", seen if masked else None, persistent=False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks, ``(B,)`` steps and ``(B, C)`` conditions to ``(B, T, Da)``."""
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Return what the decoder reads of the memory, or the step's token where there is none.

        Args:
            t: ``(...)`` steps.
            cond: ``(..., C)`` conditions; leading dimensions broadcast against those of ``t``.

        Returns:
            ``(..., E)``: for every token of the memory the keys and values of all layers.
        """
        lead = leading(t[..., None], cond)
        step = sinusoidal_embedding(t, self.n_emb).to(cond.dtype)[..., None, :]
        if self.decoder is None:
            token: Tensor = self.drop(step + self.pos_emb[:, :1])
            return token.expand(*lead, 1, -1).flatten(-2)
        parts = [self.drop(step + self.cond_pos_emb[0, :1])]
        if self.cond_obs_emb is not None:
            seen = self.cond_obs_emb(cond.view(*cond.shape[:-1], self.obs_steps, -1))
            parts.append(self.drop(seen + self.cond_pos_emb[0, 1:]))
        if isinstance(self.encoder, Layers):  # its tokens see each other: no part can go alone
            memory = torch.cat([part.expand(*lead, -1, -1) for part in parts], dim=-2)
            parts = [_through(self.encoder, memory.flatten(0, -3), None).view(memory.shape)]
        else:
            parts = [self.encoder(part) for part in parts]
        layers = cast(Iterable[DecoderLayer], self.decoder.layers)
        read = [torch.cat([layer.remember(part) for layer in layers], dim=-1) for part in parts]
        return torch.cat([part.expand(*lead, -1, -1) for part in read], dim=-2).flatten(-2)

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` chunks and their ``(B, E)`` to ``(B, T, Da)``."""
        h = self.input_emb(x)
        if self.decoder is None:
            h = self.drop(h + self.pos_emb[:, 1:])
            h = torch.cat([encoded[:, None], h], dim=1)
            h = _through(cast(Layers, self.encoder), h, self.mask)[:, 1:]
        else:
            h = self.drop(h + self.pos_emb)
            read = encoded.view(len(x), -1, self.n_layer, 2 * self.n_emb).unbind(2)
            layers = cast(Iterable[DecoderLayer], self.decoder.layers)
            for layer, remembered in zip(layers, read, strict=True):
                h = layer(h, remembered, self.mask, self.memory_mask)
        out: Tensor = self.head(self.ln_f(h))
        return out


def _through(layers: Layers, x: Tensor, mask: Tensor | None) -> Tensor:
    for layer in layers.layers:
        x = layer(x, mask)
    return x


def _check(
    cond_dim: int,
    obs_steps: int,
    n_layer: int,
    n_head: int,
    n_emb: int,
    n_cond_layers: int,
    time_as_cond: bool,
) -> None:
    """Raise where the sizes do not fit together."""
    if min(obs_steps, n_layer, n_head, n_emb) < 1 or n_cond_layers < 0:
        raise PcmError("obs_steps, n_layer, n_head and n_emb must be at least 1, n_cond_layers 0")
    if n_emb % n_head or n_emb % 2 or n_emb < 4:
        raise PcmError(f"n_emb {n_emb} is no even multiple of n_head {n_head} of at least 4")
    if cond_dim % obs_steps:
        raise PcmError(
            f"a condition of width {cond_dim} cannot be cut into obs_steps={obs_steps} tokens: "
            "give the task's obs_steps, and prefix_steps=0"
        )
    if cond_dim and not time_as_cond:
        raise PcmError("time_as_cond=false leaves observations no place: it takes no condition")

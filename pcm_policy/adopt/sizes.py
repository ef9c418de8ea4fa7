"""Sizes of a network, read off its weights, which no config can contradict."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcm_policy.errors import PcmError

_LAYERS = 1000


class Shapes:
    """Shapes of weights that must be there."""

    def __init__(self, file: str, weights: Mapping[str, Tensor], network: str) -> None:
        self.file, self.weights, self.network = file, weights, network

    def __call__(self, name: str, rank: int) -> torch.Size:
        """Return the shape of the weight ``name``, or raise PcmError."""
        if name not in self.weights or self.weights[name].ndim != rank:
            raise PcmError(
                f"{self.file} lacks the layer {name} of a {self.network}: it is cut short or of "
                "another architecture, which cannot be imported"
            )
        return self.weights[name].shape

    def count(self, name: str) -> int:
        """Return how many of the layers ``name.format(0)``, ``name.format(1)``... there are."""
        return next(i for i in range(_LAYERS) if name.format(i) not in self.weights)


def unet_options(file: str, weights: Mapping[str, Tensor], n_groups: int = 8) -> dict[str, Any]:
    """Read the sizes of a 1-D U-Net off its weights.

    Args:
        file: for messages.
        weights: under our names.
        n_groups: groups of the group norms, the one size that no weight shows.

    Returns:
        Options of :class:`~pcm_policy.networks.unet1d.ConditionalUnet1d`.

    Raises:
        PcmError: a weight that shows a size is missing or misshapen.
    """
    shape = Shapes(file, weights, "conditional 1-D U-Net")
    first = "down_modules.{}.0.blocks.0.block.0.weight"
    levels = max(shape.count(first), 1)
    down_dims = [shape(first.format(i), 3)[0] for i in range(levels)]
    film = shape("down_modules.0.0.cond_encoder.1.weight", 2)
    return {
        "down_dims": down_dims,
        "kernel_size": shape(first.format(0), 3)[2],
        "n_groups": n_groups,
        "cond_predict_scale": film[0] == 2 * down_dims[0],
        "step_embed_dim": shape("diffusion_step_encoder.1.weight", 2)[1],
    }


def transformer_options(
    file: str, weights: Mapping[str, Tensor], n_head: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the sizes of Diffusion Policy's transformer off its state dict, masks included.

    Args:
        file: for messages.
        weights: the state dict.
        n_head: heads of every attention, the one size that no weight shows.

    Returns:
        Options of :class:`~pcm_policy.networks.transformer.DenoisingTransformer`, and the weights
        that it has.

    Raises:
        PcmError: a weight that shows a size is missing or misshapen, or a mask is another one.
    """
    shape = Shapes(file, weights, "denoising transformer")
    decoder = shape.count("decoder.layers.{}.linear1.weight")
    encoder = shape.count("encoder.layers.{}.linear1.weight")
    seen = shape("cond_pos_emb", 3)[1] - 1 if decoder else 0
    tokens = shape("pos_emb", 3)[1]
    for name, columns, ahead in (("mask", tokens, 0), ("memory_mask", seen + 1, 1)):
        if name in weights and not _is_causal(weights[name], tokens, columns, ahead):
            raise PcmError(f"{file}: {name} is not the causal one, which cannot be imported")
    options = {
        "obs_steps": max(seen, 1),
        "n_layer": decoder or encoder,
        "n_head": n_head,
        "n_emb": shape("input_emb.weight", 2)[0],
        "n_cond_layers": encoder if decoder else 0,
        "causal_attn": "mask" in weights,
        "time_as_cond": decoder > 0,
    }
    unused = ("mask", "memory_mask", "_dummy_variable")
    return options, {k: v for k, v in weights.items() if k not in unused}


def _is_causal(mask: Tensor, rows: int, columns: int, ahead: int) -> bool:
    """Whether a mask adds 0 where a row may look, up to ``ahead`` columns on, else -inf."""
    if mask.shape != (rows, columns):
        return False
    expected = torch.full((rows, columns), float("-inf")).triu(ahead + 1)
    return torch.equal(mask.float(), expected)

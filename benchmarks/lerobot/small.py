"""Small SmolVLA, pi0, pi0.5 and multi_task_dit policies of LeRobot 0.6.1, without a download.

They run in LeRobot's environment alone. The weights are random, or trained here for a minute on a
task with two modes; nothing that is measured on them says how large pretrained ones behave.
"""

import math
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

T, A, S, LONG, VOCABULARY, SIDE = 16, 4, 3, 6, 96, 32
KINDS = ("smolvla", "pi0", "pi05", "multi_task_dit")
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "vocab_size": 96}
SIGHT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "image_size": SIDE}


def features() -> dict[str, Any]:
    """Return what all of them see and do."""
    from lerobot.configs.types import FeatureType, PolicyFeature

    return {
        "input_features": {
            "observation.state": PolicyFeature(FeatureType.STATE, (S,)),
            "observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)),
        },
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (A,))},
        "device": "cpu",
    }


def make(kind: str, folder: Path, **settings: Any) -> Any:
    """Return a policy with random weights.

    Args:
        kind: one of :data:`KINDS`.
        folder: an empty one; configs and tokenizers are written there.
        settings: of its config.
    """
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    return {"smolvla": smolvla, "multi_task_dit": multi_task_dit}.get(kind, pi)(
        folder, *([kind] if kind.startswith("pi") else []), **settings
    ).eval()


def smolvla(folder: Path, **settings: Any) -> Any:
    """Return a SmolVLA of four layers; its language model is described by files in the folder."""
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
    from tokenizers import Tokenizer, models
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    text = TEXT | {"model_type": "llama", "head_dim": 16, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "pad_token_id": 0}
    sight = SIGHT | {"num_attention_heads": 2, "patch_size": 8}
    SmolVLMConfig(
        text_config=text, vision_config=sight, scale_factor=2, image_token_id=7, pad_token_id=0
    ).save_pretrained(folder)
    names = ["<pad>", "<image>", "<fake>", "<global>", "<end>", *map(str, range(80))]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="<pad>"))
    more = {"fake_image_token": "<fake>", "global_image_token": "<global>"}
    more |= {"image_token": "<image>", "end_of_utterance_token": "<end>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", extra_special_tokens=more
    )
    SmolVLMProcessor(
        SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(), image_seq_len=4
    ).save_pretrained(folder)
    config = SmolVLAConfig(
        **features(),
        vlm_model_name=str(folder),
        load_vlm_weights=False,
        train_expert_only=False,
        freeze_vision_encoder=False,
        chunk_size=T,
        n_action_steps=T,
        max_action_dim=8,
        max_state_dim=8,
        resize_imgs_with_padding=(SIDE, SIDE),
        num_vlm_layers=4,
        **settings,
    )
    return SmolVLAPolicy(config)


def pi(folder: Path, kind: str, **settings: Any) -> Any:
    """Return a pi0 or pi0.5 of three layers: LeRobot fixes its sizes, so they are patched here."""
    if kind == "pi0":
        from lerobot.policies.pi0 import modeling_pi0 as module
        from lerobot.policies.pi0.configuration_pi0 import PI0Config as Config
        from lerobot.policies.pi0.modeling_pi0 import PI0Policy as Policy
    else:
        from lerobot.policies.pi05 import modeling_pi05 as module
        from lerobot.policies.pi05.configuration_pi05 import PI05Config as Config
        from lerobot.policies.pi05.modeling_pi05 import PI05Policy as Policy
    with shrunk(module):
        return Policy(
            Config(
                **features(),
                chunk_size=T,
                n_action_steps=T,
                max_action_dim=8,
                max_state_dim=8,
                image_resolution=(28, 28),
                **settings,
            )
        )


@contextmanager
def shrunk(module: Any) -> Any:
    """Make the sizes of a module's networks small while policies are built."""
    original = module.PaliGemmaForConditionalGenerationWithPiGemma
    expert = module.PiGemmaForCausalLM

    def sizes(variant: str) -> Any:
        return module.GemmaConfig(64 if variant == "gemma_2b" else 32, 3, 128, 8, 1, 16)

    def seeing(config: Any) -> Any:
        for key, value in (SIGHT | {"image_size": 28, "projection_dim": 64}).items():
            setattr(config.vision_config, key, value)
        config.vision_config.num_attention_heads = 2
        config.text_config.vocab_size = config._vocab_size = VOCABULARY
        config.projection_dim, config.image_token_index = 64, VOCABULARY - 1
        return original(config=config)

    def acting(config: Any) -> Any:
        config.vocab_size = VOCABULARY
        return expert(config=config)

    with ExitStack() as stack:
        for name, value in (
            ("get_gemma_config", sizes),
            ("PaliGemmaForConditionalGenerationWithPiGemma", seeing),
            ("PiGemmaForCausalLM", acting),
        ):
            stack.enter_context(patch.object(module, name, value))
        yield


def multi_task_dit(folder: Path, **settings: Any) -> Any:
    """Return a multi_task_dit whose CLIP encoders are small files in the folder."""
    from lerobot.policies.multi_task_dit.configuration_multi_task_dit import MultiTaskDiTConfig
    from lerobot.policies.multi_task_dit.modeling_multi_task_dit import MultiTaskDiTPolicy
    from transformers import CLIPConfig, CLIPModel

    clip = folder / "clip"
    text = TEXT | {"num_attention_heads": 4, "max_position_embeddings": 16, "eos_token_id": 2}
    sight = SIGHT | {"num_attention_heads": 2, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=sight)).save_pretrained(clip)
    words().save_pretrained(clip)
    given = {"hidden_dim": 64, "num_layers": 3, "num_heads": 4, "timestep_embed_dim": 32}
    given |= {"horizon": T, "n_action_steps": 8, "image_crop_shape": None}
    given |= {"tokenizer_max_length": 16}
    names = {"vision_encoder_name": str(clip), "text_encoder_name": str(clip)}
    policy = MultiTaskDiTPolicy(MultiTaskDiTConfig(**features() | given | names | settings))
    net = policy.noise_predictor
    with torch.no_grad():  # fresh, its blocks are the identity and ignore time and condition
        for layer in [net.output_proj, *(b.adaLN_modulation[-1] for b in net.transformer_blocks)]:
            layer.weight.normal_(0, 0.3 / layer.in_features**0.5)
    return policy


def words() -> Any:
    """Return CLIP's tokenizer with a vocabulary of letters and a few longer parts."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,-'"
    merges = [("t", "h"), ("th", "e</w>"), ("p", "u"), ("pu", "s"), ("pus", "h</w>")]
    parts = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges)]
    parts += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={part: i for i, part in enumerate(parts)}, merges=merges)


def observed(batch: int, seed: int = 0, frames: int | None = None) -> dict[str, Tensor]:
    """Return observations with a prompt of another length in every row.

    Args:
        batch: ``B``.
        seed: of what is seen.
        frames: of state and image, oldest first, for a policy with a history; None for none.
    """
    g = torch.Generator().manual_seed(seed)
    axes = (batch,) if frames is None else (batch, frames)
    long = 2 + torch.arange(batch) % (LONG - 1)
    return {
        "observation.state": torch.rand(*axes, S, generator=g) * 2 - 1,
        "observation.images.top": torch.rand(*axes, 3, SIDE, SIDE, generator=g),
        "observation.language.tokens": torch.randint(5, 80, (batch, LONG), generator=g),
        "observation.language.attention_mask": torch.arange(LONG) < long[:, None],
    }


def demonstrated(seen: dict[str, Tensor], seed: int) -> Tensor:
    """Return ``(B, T, A)`` actions: one of two waves, chosen at random, that the state shapes."""
    state = seen["observation.state"]
    state = state[:, -1] if state.ndim == 3 else state
    g = torch.Generator().manual_seed(seed)
    mode = torch.randint(0, 2, (len(state), 1, 1), generator=g) * 2.0 - 1.0
    at = torch.linspace(0, math.pi, T)[:, None] * torch.arange(1, A + 1) / 2
    word = seen["observation.language.tokens"][:, :1, None] / 80
    return 0.9 * mode * torch.sin(at + state[:, :1, None]) * (0.5 + 0.5 * word)


def train(policy: Any, steps: int, frames: int | None = None, rate: float = 1e-3) -> Any:
    """Train a policy by its own loss on the task with two modes; returns it for evaluation."""
    torch.manual_seed(1)
    policy.train()
    optimizer = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], rate)
    for step in range(steps):
        batch = observed(16, seed=1000 + step, frames=frames)
        batch["action"] = demonstrated(batch, seed=step)
        loss, _ = policy.forward(batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    return policy.eval()

"""The transformer against torch's own layers, and its place among the networks."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.networks import build_network
from pcm_policy.networks.embedding import sinusoidal_embedding
from pcm_policy.networks.transformer import DenoisingTransformer
from tests.problems import F64, randomize

T, DA, TO, DO, EMB, HEADS = 6, 3, 2, 5, 16, 2
SIZES: dict[str, Any] = {"obs_steps": TO, "n_layer": 2, "n_head": HEADS, "n_emb": EMB}
FORMS = {
    "causal": ({}, TO * DO),
    "free": ({"causal_attn": False}, TO * DO),
    "memory-encoder": ({"n_cond_layers": 2}, TO * DO),
    "step-alone": ({}, 0),
    "encoder-only": ({"time_as_cond": False}, 0),
}


class Reference(nn.Module):
    """The architecture written with torch's layers, additive masks and one memory a call."""

    def __init__(self, cond_dim: int, causal: bool, cond_layers: int, step_in_memory: bool) -> None:
        super().__init__()
        kind = {"d_model": EMB, "nhead": HEADS, "dim_feedforward": 4 * EMB, "activation": "gelu"}
        order = {"batch_first": True, "norm_first": True, "dropout": 0.3}
        tokens = T if step_in_memory else T + 1
        self.input_emb = nn.Linear(DA, EMB)
        self.pos_emb = nn.Parameter(torch.zeros(1, tokens, EMB))
        self.step_in_memory, self.causal, self.cond_dim = step_in_memory, causal, cond_dim
        encoder = nn.TransformerEncoderLayer(**kind, **order)
        if not step_in_memory:
            self.encoder: nn.Module = nn.TransformerEncoder(encoder, 2, enable_nested_tensor=False)
        else:
            size = 1 + (TO if cond_dim else 0)
            self.cond_pos_emb = nn.Parameter(torch.zeros(1, size, EMB))
            if cond_dim:
                self.cond_obs_emb = nn.Linear(cond_dim // TO, EMB)
            self.encoder = (
                nn.TransformerEncoder(encoder, cond_layers, enable_nested_tensor=False)
                if cond_layers
                else nn.Sequential(nn.Linear(EMB, 4 * EMB), nn.Mish(), nn.Linear(4 * EMB, EMB))
            )
            self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**kind, **order), 2)
        self.ln_f, self.head = nn.LayerNorm(EMB), nn.Linear(EMB, DA)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        step = sinusoidal_embedding(t, EMB).to(x.dtype)[:, None]
        h, inf = self.input_emb(x), float("-inf")
        tokens = self.pos_emb.shape[1]
        mask = torch.full((tokens, tokens), inf, dtype=x.dtype).triu(1) if self.causal else None
        if not self.step_in_memory:
            h = self.encoder(torch.cat([step, h], 1) + self.pos_emb, mask)[:, 1:]
        else:
            parts, memory_mask = [step], None
            if self.cond_dim:
                parts.append(self.cond_obs_emb(cond.view(len(x), TO, -1)))
                if self.causal:
                    memory_mask = torch.zeros(T, 1 + TO, dtype=x.dtype)
                    for row in range(T):
                        for column in range(1 + TO):
                            if column - 1 > row:
                                memory_mask[row, column] = inf
            memory = self.encoder(torch.cat(parts, 1) + self.cond_pos_emb)
            h = self.decoder(h + self.pos_emb, memory, mask, memory_mask)
        out: Tensor = self.head(self.ln_f(h))
        return out


def pair(form: str) -> tuple[DenoisingTransformer, Reference, int]:
    options, cond_dim = FORMS[form]
    torch.manual_seed(0)
    ours = DenoisingTransformer(DA, T, cond_dim, **SIZES | options)
    theirs = Reference(
        cond_dim,
        options.get("causal_attn", True),
        options.get("n_cond_layers", 0),
        options.get("time_as_cond", True),
    )
    randomize(theirs, 1.5, 1)
    for name, value in theirs.named_parameters():
        if "norm" in name or name == "ln_f.weight":
            value += 1.0
    ours.load_state_dict(theirs.state_dict())
    return ours.double().eval(), theirs.double().eval(), cond_dim


def inputs(cond_dim: int, rows: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(3)
    x = torch.randn(rows, T, DA, generator=gen, dtype=F64)
    cond = torch.randn(rows, cond_dim, generator=gen, dtype=F64)
    return x, torch.randint(0, 100, (rows,), generator=gen), cond


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_equals_torchs_layers_on_the_same_state_dict(form: str) -> None:
    ours, theirs, cond_dim = pair(form)
    x, t, cond = inputs(cond_dim)
    expected = theirs(x, t, cond)
    assert expected.std() > 0.1
    torch.testing.assert_close(ours(x, t, cond), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_steps_and_conditions_broadcast(form: str) -> None:
    ours, _, cond_dim = pair(form)
    x, t, cond = inputs(cond_dim)
    outer = ours.encode(t[:3, None], cond)
    assert outer.shape[:2] == (3, 4)
    rows = x.repeat(3, 1, 1)
    found = ours.decode(rows, outer.flatten(0, 1))
    expected = ours(rows, t[:3].repeat_interleave(4), cond.repeat(3, 1))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_step_sees_nothing_later() -> None:
    ours, _, cond_dim = pair("causal")
    x, t, cond = inputs(cond_dim)
    before = ours(x, t, cond)
    x[:, 4] += 1.0
    cond[:, DO:] += 1.0  # the second observation, which the first step does not see either
    change = (ours(x, t, cond) - before).abs().amax((0, 2))
    assert change[0] == 0
    assert bool((change[1:] > 1e-6).all())


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    net = DenoisingTransformer(DA, T, TO * DO, **SIZES, p_drop_emb=0.2, p_drop_attn=0.3)
    x, t, cond = (v.float() if v.is_floating_point() else v for v in inputs(TO * DO))
    assert not torch.equal(net(x, t, cond), net(x, t, cond))
    net.eval()
    assert torch.equal(net(x, t, cond), net(x, t, cond))


@pytest.mark.parametrize(
    ("options", "cond_dim", "said"),
    [
        ({"n_head": 3}, TO * DO, "n_emb 16 is no even multiple of n_head 3"),
        ({"obs_steps": 3}, TO * DO, "give the task's obs_steps"),
        ({"time_as_cond": False}, TO * DO, "leaves observations no place"),
        ({"n_layer": 0}, TO * DO, "must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], cond_dim: int, said: str) -> None:
    with pytest.raises(PcmError, match=said):
        build_network("transformer", DA, T, cond_dim, SIZES | options)

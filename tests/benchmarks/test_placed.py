"""Where nodes should be: the search finds the node that tells most, and the command runs."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.solvers import placed
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy

ROWS, WIDTH, NODES = 200, 3, 5


def example(seed: int, noise: float) -> dict[str, torch.Tensor]:
    """A chunk that is a mean of what the base says at nodes 1 and 3, and noise elsewhere."""
    draw = torch.Generator().manual_seed(seed)
    guess = torch.randn(ROWS, WIDTH, generator=draw)
    base = guess + torch.randn(NODES, ROWS, WIDTH, generator=draw)
    exact = 0.7 * base[3] + 0.3 * base[1] + noise * torch.randn(ROWS, WIDTH, generator=draw)
    return {"guess": guess, "base": base, "exact": exact, "round": guess}


@pytest.mark.parametrize("seed", range(3))
def test_the_nodes_that_tell_most_are_found(seed: int) -> None:
    one, two, three = placed.searched(example(seed, noise=0.01))
    assert one == (3,)
    assert two == (1, 3)
    assert {1, 3} < set(three)


def test_a_linear_chunk_is_predicted_and_others_are_not() -> None:
    found = example(0, noise=0.0)
    assert len(placed.errors(found, [1, 3])) == ROWS // 5
    assert float(placed.errors(found, [1, 3]).max()) < 0.02  # the ridge alone
    assert float(placed.errors(found, [0, 4]).mean()) > 0.3
    obvious = placed.rmse(found["guess"], found["exact"])
    by_hand = [((g - e) ** 2).mean() ** 0.5 for g, e in zip(found["guess"], found["exact"])]  # noqa: B905
    torch.testing.assert_close(obvious, torch.stack(by_hand))


def test_what_the_base_says_is_what_the_round_calls(tmp_path: Path) -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    assert policy.held_out is not None
    seen = policy.obs_normalizer.normalize(policy.held_out[:7]).flatten(1)
    found = placed.looked(policy, seen, seed=3)
    count = policy.sampler(policy.config.head.sampler).steps  # type: ignore[union-attr]
    width = policy.config.horizon * policy.config.action_dim
    assert found["base"].shape == (count, 7, width)
    off = {name: float(placed.rmse(found[name], found["exact"]).mean()) for name in found}
    assert off["round"] < off["guess"]
    bare = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    bare.head = None
    with pytest.raises(PcmError, match="first guess"):
        placed.looked(bare, seen, seed=3)


def test_the_command(tmp_path: Path) -> None:
    words = ["released/pusht_demos", "--policy", "released/pusht_mlp", "--windows", "40"]
    placed.main([*words, "--output", str(tmp_path)])
    report = json.loads((tmp_path / "pusht_mlp.json").read_text())
    assert [row["name"] for row in report["rows"]].count("best") == 3
    assert report["weights"]["head"]
    for row in report["rows"]:
        assert len(placed.cells(row)) == len(placed.HEAD)

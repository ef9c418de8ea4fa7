"""A batch in parts, one after another, is the batch: same numbers, same gradient, same run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.batches import Windows, step_generator
from pcm_policy.training.cloning import Cloning
from pcm_policy.training.sharing import Share
from tests.training.small import assert_same, distill, forget, lines, train

RUN = ["train.steps=12", "train.save_every=5", "train.keep=9"]
TOLERANCE = 2e-4
"""Adam divides by small second moments, which magnifies the rounding of the gradient's sum."""


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in lines(output) if "loss" in line]


class Seen(nn.Module):
    """A network that remembers what it was asked."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.network, self.asked = policy.network, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        self.asked.append((x.detach(), t, cond.detach()))
        found: Tensor = self.network(x, t, cond)
        return found


def cloning(prefix_steps: int, noises: int = 1) -> tuple[Cloning, Seen]:
    torch.manual_seed(0)
    options = {"width": 16, "depth": 1}
    config = PolicyConfig(
        3, 2, horizon=8, action_steps=4, network_options=options, prefix_steps=prefix_steps
    )
    policy = DiffusionPolicy(config)
    data = Windows(torch.randn(40, 6), torch.rand(40, 8, 2) * 2 - 1)
    return Cloning(policy, data, data, 24, 3, noises=noises), Seen(policy)


@pytest.mark.parametrize("prefix_steps", [0, 5])
def test_every_window_is_seen_at_several_noise_levels(prefix_steps: int) -> None:
    """The loss is the mean of as many losses, each of its own noise; the first is that of one."""
    objective, network = cloning(prefix_steps, noises=3)
    loss = objective.loss(network, 7, Share(0, 1))
    alone, first = cloning(prefix_steps)
    alone.loss(first, 7, Share(0, 1))
    assert len(network.asked) == 3
    for mine, its in zip(network.asked[0], first.asked[0], strict=True):
        assert torch.equal(mine, its)
    (x, t, cond), (y, s, other) = network.asked[1:]
    assert not torch.equal(x, y)
    assert not torch.equal(t, s)
    assert torch.equal(cond[:, :6], other[:, :6])
    batch = objective._read(objective.train, objective.rows(7), step_generator(3, 7), Share(0, 1))
    slow = [
        objective.denoising.loss(network, lambda p: objective.policy.join(batch.seen, p), *given)
        for given in ((batch.chunk, drawn) for drawn in batch.drawn)
    ]
    assert loss.item() == pytest.approx(sum(one.item() for one in slow) / 3, rel=1e-6)


@pytest.mark.parametrize("prefix_steps", [0, 5])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_row_gets_the_same_numbers_and_all_rows_the_same_weight(
    parts: int, prefix_steps: int
) -> None:
    """Where first actions are known, parts ask for different numbers of actions."""
    objective, whole = cloning(prefix_steps)
    loss = objective.loss(whole, 7, Share(0, 1))
    loss.backward()
    _, part = cloning(prefix_steps)
    found = [objective.loss(part, 7, Share(i, parts)) / parts for i in range(parts)]
    for one in found:
        one.backward()
    torch.testing.assert_close(torch.stack(found).sum(), loss, rtol=1e-6, atol=0)
    for want, asked in zip(whole.asked[0], zip(*part.asked, strict=True), strict=True):
        for i, rows in enumerate(asked):
            assert torch.equal(rows, want[i::parts])
    for a, b in zip(whole.parameters(), part.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


@pytest.fixture(scope="module")
def whole(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(demos, tmp_path_factory.mktemp("whole") / "run", *RUN)


@pytest.mark.parametrize("parts", [2, 8])
def test_training_in_parts(demos: Path, whole: Path, tmp_path: Path, parts: int) -> None:
    found = train(demos, tmp_path / "run", *RUN, f"train.accumulate={parts}")
    assert_same(found, whole, tolerance=TOLERANCE)
    np.testing.assert_allclose(losses(found.parent), losses(whole.parent), rtol=1e-4)


def test_resumed_in_the_middle(demos: Path, whole: Path, tmp_path: Path) -> None:
    """In as many parts bit for bit; in others to rounding."""
    words = [*RUN, "train.accumulate=2"]
    found = train(demos, tmp_path / "run", *words)
    before = {k: v.clone() for k, v in DiffusionPolicy.from_pretrained(found).state_dict().items()}
    forget(found.parent, 5)
    train(demos, tmp_path / "run", *words, "resume=true")
    for name, value in DiffusionPolicy.from_pretrained(found).state_dict().items():
        assert torch.equal(value, before[name]), name
    forget(found.parent, 5)
    train(demos, tmp_path / "run", *RUN, "train.accumulate=4", "resume=true")
    assert_same(found, whole, tolerance=TOLERANCE)


def test_distillation_in_parts(demos: Path, whole: Path, tmp_path: Path) -> None:
    one, two = (
        distill(whole, demos, tmp_path / str(n), *RUN, f"train.accumulate={n}") for n in (1, 2)
    )
    assert_same(two, one, tolerance=TOLERANCE)
    np.testing.assert_allclose(losses(two.parent), losses(one.parent), rtol=1e-3)


def test_a_slow_copy_moves_once_a_step(demos: Path, whole: Path, tmp_path: Path) -> None:
    words = ["head=consistency", "sampler.name=ddim", "sampler.eta=0", f"policy={whole}", *RUN]
    words += [f"dataset.path={demos}", "device=cpu", "threads=1", "train.batch=8"]
    words += ["train.warmup=2", "train.log_every=2"]
    one, two = (
        cli_train.distill_main(
            compose("distill", [*words, f"train.accumulate={n}", f"output_dir={tmp_path}/{n}"])
        )
        for n in (1, 2)
    )
    assert_same(two, one, tolerance=TOLERANCE)
    np.testing.assert_allclose(losses(two.parent), losses(one.parent), rtol=1e-3)


def test_a_batch_that_does_not_divide_is_refused_before_any_work(
    demos: Path, whole: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.zarr"
    with pytest.raises(PcmError, match=r"batch=8 .* train.accumulate=3 parts .* multiple of 3"):
        train(missing, tmp_path / "run", *RUN, "train.accumulate=3")
    words = [*RUN, "train.accumulate=4", "distill.guess_batch=6"]
    with pytest.raises(PcmError, match=r"distill.guess_batch=6 does not divide.* multiple of 4"):
        distill(whole, missing, tmp_path / "run", *words)
    assert not (tmp_path / "run/metrics.jsonl").exists()
    with pytest.raises(PcmError, match="a batch of 7 does not divide into 2 parts"):
        Share(0, 2)(torch.arange(7))

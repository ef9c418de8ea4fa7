"""Settings of training are checked before any work, by type and by range, NaN too."""

import math
from typing import Any

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.training import launch
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.dataset import DatasetConfig

NAN, INF = math.nan, math.inf
COUNTS = ("steps", "batch", "log_every", "save_every", "keep")
BAD: list[tuple[str, list[Any]]] = [
    *((name, [0, -1, 1.5, "3", True, None, 2**40]) for name in COUNTS),
    ("warmup", [-1, 0.5, None]),
    ("seed", [-1, 1.5, 2**64, None, "x"]),
    ("lr", [0, -1e-3, NAN, INF, "fast", None]),
    ("weight_decay", [-1e-6, NAN, INF, None]),
    *((name, [-0.1, 1, 1.5, NAN, None]) for name in ("beta1", "beta2", "ema")),
    ("clip_norm", [-1, -1e-9, NAN, INF, "no"]),
]


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD for v in values])
def test_a_training_setting_out_of_range_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(PcmError, match=f"train.{name}="):
        TrainConfig(**{"steps": 10, name: value})


@pytest.mark.parametrize("value", [None, 0, 0.0])
def test_gradients_may_go_unclipped(value: float | None) -> None:
    assert TrainConfig(10, clip_norm=value).largest_norm == INF
    assert TrainConfig(10, clip_norm=0.5).largest_norm == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("val_fraction", v) for v in (-0.1, 1, 1.5, NAN, "x", None)),
        *(("val_seed", v) for v in (-1, 0.5, None, 2**64)),
        *(("episodes", v) for v in (0, -3, 1.5, "3")),
    ],
)
def test_a_dataset_setting_out_of_range_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(PcmError, match=f"dataset.{name}="):
        DatasetConfig("x.zarr", **{name: value})


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Forget accelerate's one state of the process, before and after."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)  # type: ignore[no-untyped-call]
    yield monkeypatch
    AcceleratorState._reset_state(True)  # type: ignore[no-untyped-call]


CPU = torch.device("cpu")


def test_precision_is_the_launchers_unless_it_is_given(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert launch.launched(CPU).mixed_precision == "bf16"


def test_a_given_precision_comes_before_the_launchers(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert launch.launched(CPU, "no").mixed_precision == "no"


@pytest.mark.parametrize("precision", ["fp8", "float16", "FP16", "", "no "])
def test_another_precision_is_refused(fresh: pytest.MonkeyPatch, precision: str) -> None:
    with pytest.raises(PcmError, match="precision="):
        launch.launched(CPU, precision)


@pytest.mark.parametrize("said_by", ["setting", "launcher"])
def test_half_precision_needs_a_gpu(fresh: pytest.MonkeyPatch, said_by: str) -> None:
    if said_by == "launcher":
        fresh.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(PcmError, match="fp16"):
        launch.launched(CPU, "fp16" if said_by == "setting" else None)


def test_gradients_are_not_accumulated_by_the_way(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(PcmError, match="4 steps of gradient accumulation"):
        launch.launched(CPU)

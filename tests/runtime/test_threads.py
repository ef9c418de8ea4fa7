"""A policy may be asked by several threads, also while its runtime records for one of them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.sampling.noise import episode_noise
from tests.builders import ACTION_DIM, HORIZON, OBS_DIM, small_policy

THREADS = 4
KINDS = [(1, False), (2, True)]
"""Rows of a request, and whether it knows first actions: each is recorded by itself."""


@pytest.mark.parametrize("mode", ["eager", "onnx", "openvino"])
def test_answers_do_not_depend_on_who_else_asks(mode: str) -> None:
    if mode != "eager":
        pytest.importorskip({"onnx": "onnxruntime"}.get(mode, mode))
    policy, reference = (small_policy(head="window") for _ in range(2))
    policy.use(Runtime(policy, RuntimeConfig(mode)))
    start = Barrier(THREADS)

    def ask(of: object, turn: int) -> np.ndarray:
        batch, known = KINDS[turn % len(KINDS)]
        rows = np.random.default_rng(turn)
        noise = episode_noise(range(batch), [turn] * batch, (HORIZON, ACTION_DIM))
        prefix = reference.known_prefix(rows.normal(size=(batch, 2, ACTION_DIM))) if known else None
        found = of.predict(rows.normal(size=(batch, 2, OBS_DIM)), noise=noise, prefix=prefix)  # type: ignore[attr-defined]
        return found.chunk

    def robot(number: int) -> list[np.ndarray]:
        start.wait()
        return [ask(policy, number + k) for k in range(6)]

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(robot, range(THREADS)))
    for number, found in enumerate(answers):
        for k, chunk in enumerate(found):
            np.testing.assert_allclose(chunk, ask(reference, number + k), atol=1e-4)

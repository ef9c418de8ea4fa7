"""Drive LeRobot's own real-time chunking engine with a slow solve; runs in LeRobot's environment.

    python rtc_engine.py FOLDER... CALLS DELAY

The engine's thread runs as ``lerobot-rollout --inference.type=rtc`` runs it. Its clock is replaced:
during every solve the control loop makes ``DELAY`` steps, and the clock advances by as much. So
the test does not depend on how fast the machine is. Prints a line of JSON for each folder.
"""

import json
import sys
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference import rtc
from lerobot.utils.import_utils import register_third_party_plugins
from safetensors.torch import load_file

FPS = 20
WIDTH = 20


class Loop:
    """A policy whose every solve takes ``delay`` steps of the control loop."""

    def __init__(self, policy, delay: int, told: bool) -> None:
        self.policy, self.delay, self.told = policy, delay, told
        self.config, self.now = policy.config, 0.0
        self.handed, self.chunks, self.executed, self.delays = [], [], [], []

    def reset(self) -> None:
        self.policy.reset()

    def supports_rtc(self) -> bool:
        return self.policy.supports_rtc()

    def predict_action_chunk(self, batch, inference_delay, prev_chunk_left_over):
        told = inference_delay if self.told else 0
        chunk = self.policy.predict_action_chunk(
            batch, inference_delay=told, prev_chunk_left_over=prev_chunk_left_over
        )
        self.delays.append(inference_delay)
        self.handed.append(prev_chunk_left_over)
        self.chunks.append(chunk[0].clone())
        self.executed.append([self.engine.get_action(None) for _ in range(self.delay)])
        self.now += (self.delay - 0.5) / FPS
        if len(self.chunks) == self.calls:
            self.done.set()
            self.engine.pause()
        return chunk


def run(policy, processors, observation, calls: int, delay: int, told: bool) -> Loop:
    """Let the engine make ``calls`` chunks of one observation."""
    loop = Loop(policy, delay, told)
    loop.calls, loop.done = calls, Event()
    rtc.time = SimpleNamespace(perf_counter=lambda: loop.now, sleep=time.sleep)
    names = [f"x{i:02}.pos" for i in range(WIDTH)]
    engine = rtc.RTCInferenceEngine(
        policy=loop,
        preprocessor=processors[0],
        postprocessor=processors[1],
        robot_wrapper=SimpleNamespace(robot_type="fake", action_features=names),
        rtc_config=RTCConfig(enabled=True, execution_horizon=10),
        hw_features={
            "observation.state": {"dtype": "float32", "shape": (WIDTH,), "names": names},
        },
        task="",
        fps=FPS,
        device="cpu",
    )
    loop.engine = engine
    engine.start()
    engine.reset()
    engine.notify_observation(dict(zip(names, observation.tolist(), strict=True)))
    engine.resume()
    assert loop.done.wait(120), "the engine stopped"
    engine.stop()
    assert not engine.failed
    return loop


def report(folder: str, calls: int, delay: int) -> dict:
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder, config=config).eval()
    assert rtc.supports_rtc_inference(policy)
    policy.init_rtc_processor()
    processors = make_pre_post_processors(config, pretrained_path=folder)
    seen = load_file(Path(folder).with_name("observations.safetensors"))["observations"]
    jumps, inside = {True: [], False: []}, []
    kept = total = 0
    for told in (True, False):
        torch.manual_seed(0)
        for observation in seen[:: len(seen) // 3, -1]:
            loop = run(policy, processors, observation, calls, delay, told)
            assert loop.delays[1:] == [delay] * (calls - 1), loop.delays
            for before, after in zip(loop.executed[1:], loop.executed[2:], strict=False):
                step = (after[0] - before[-1]).abs().max()
                jumps[told].append(float(step))
            if not told:
                continue
            for ran in map(torch.stack, loop.executed[1:]):
                inside.append(float(ran.diff(dim=0).abs().amax(1).mean()))
            for i in range(1, calls):
                ran = torch.stack(loop.executed[i])
                assert torch.equal(ran, loop.handed[i][:delay])
                kept += torch.equal(ran, loop.chunks[i][:delay])
                total += 1
    return {
        "kept": kept,
        "of": total,
        "rows": list(loop.chunks[0].shape),
        "step": sum(inside) / len(inside),
        "jump": sum(jumps[True]) / len(jumps[True]),
        "jump_without": sum(jumps[False]) / len(jumps[False]),
    }


if __name__ == "__main__":
    register_third_party_plugins()
    *paths, made, steps = sys.argv[1:]
    for path in paths:
        print(json.dumps(report(path, int(made), int(steps))))

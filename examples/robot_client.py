"""A robot that is driven by a policy server; here the robot is the Push-T simulator.

pcm-serve policy=released/pusht &
python examples/robot_client.py ws://127.0.0.1:8765 [TICKS] [HZ]
"""

import sys
import time

import gymnasium as gym

from pcm_policy.control import ControlSettings
from pcm_policy.control.client import RemoteController

if not sys.argv[1:]:
    sys.exit(__doc__)
uri, ticks, hz = sys.argv[1], int((sys.argv[2:] or [300])[0]), float((sys.argv[3:] or [10])[0])
settings = ControlSettings(
    mode="async", control_hz=hz, prefix=True, on_late="continue", low=(0, 0), high=(512, 512)
)
robot = gym.make("pcm_policy.envs:pcm_policy/PushTKeypoints-v0", max_episode_steps=ticks)
with RemoteController(uri, settings) as controller:
    frame, _ = robot.reset(seed=100000)
    controller.reset(seed=100000, rest=frame[18:20])  # stay here until the first plan has come
    begin, best = time.perf_counter(), 0.0
    for tick in range(ticks):
        command = controller.step(frame)
        frame, reward, done, _, _ = robot.step(command.action)
        best = max(best, float(reward))
        if done:
            break
        time.sleep(max(begin + (tick + 1) / hz - time.perf_counter(), 0))
    print(f"score {best:.3f}", dict(controller.controller.record.counts))
    for event in controller.controller.record.events:
        print(*event)

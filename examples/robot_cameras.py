"""A robot with a camera that is driven by a policy server; here the robot is the Push-T simulator.

pcm-serve policy=DIR/policy serve.jpeg=true &                  # a policy of task=pusht_image
python examples/robot_cameras.py ws://127.0.0.1:8765 [TICKS] [HZ] [raw|jpeg]
"""

import sys
import time

import gymnasium as gym

from pcm_policy.control import ControlSettings
from pcm_policy.control.client import RemoteController
from pcm_policy.control.images import ImageForm

if not sys.argv[1:]:
    sys.exit(__doc__)
words = [*sys.argv[2:], *("300", "10", "raw")[len(sys.argv) - 2 :]]
ticks, hz, form = int(words[0]), float(words[1]), words[2]
settings = ControlSettings(
    mode="async", control_hz=hz, prefix=True, on_late="continue", low=(0, 0), high=(512, 512)
)
robot = gym.make("pcm_policy.envs:pcm_policy/PushTImage-v0", max_episode_steps=ticks)
with RemoteController(sys.argv[1], settings, images=ImageForm(form)) as controller:
    seen, _ = robot.reset(seed=100000)  # {"image": (96, 96, 3) uint8, "agent_pos": (2,)}
    controller.reset(seed=100000, rest=seen["agent_pos"])  # stay here until the first plan has come
    begin, best = time.perf_counter(), 0.0
    for tick in range(ticks):
        command = controller.step(seen)  # a frame is sent once, whether a plan is asked for or not
        seen, reward, done, _, _ = robot.step(command.action)
        best = max(best, float(reward))
        if done:
            break
        time.sleep(max(begin + (tick + 1) / hz - time.perf_counter(), 0))
    print(f"score {best:.3f}", dict(controller.controller.record.counts))
    for event in controller.controller.record.events:
        print(*event)

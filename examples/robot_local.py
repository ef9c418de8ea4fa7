"""A robot that solves by itself, without torch; here the robot is the Push-T simulator.

pcm-export policy=released/pusht formats=[robot] control=prefix output_dir=DIR
python examples/robot_local.py DIR/robot [TICKS] [HZ]
"""

import sys
import time

import gymnasium as gym

from pcm_policy.control.background import PlanThread
from pcm_policy.robot.process import PlanProcess

if not sys.argv[1:]:
    sys.exit(__doc__)
folder, ticks, hz = sys.argv[1], int((sys.argv[2:] or [300])[0]), float((sys.argv[3:] or [10])[0])
robot = gym.make("pcm_policy.envs:pcm_policy/PushTKeypoints-v0", max_episode_steps=ticks)
with PlanProcess(folder) as policy:  # or load(folder), in this process
    controller, solver = policy.controller(), PlanThread(policy.plan)
    frame, _ = robot.reset(seed=100000)
    controller.reset(seed=100000, rest=frame[18:20])  # stay here until the first plan has come
    begin, best = time.perf_counter(), 0.0
    for tick in range(ticks):
        controller.observe(frame)
        solved = solver.take()
        if solved is not None and solved.plan is not None:
            controller.accept(solved.plan, solved.latency_ms)
        elif solved is not None:
            controller.reject(solved.request.id, solved.error)
        request = controller.request()
        if request is not None:
            solver.submit(request)
        command = controller.act()
        frame, reward, done, _, _ = robot.step(command.action)
        best = max(best, float(reward))
        if done:
            break
        time.sleep(max(begin + (tick + 1) / hz - time.perf_counter(), 0))
    solver.close()
    print(f"score {best:.3f}", dict(controller.record.counts))

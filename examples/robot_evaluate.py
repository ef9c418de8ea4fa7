"""Episodes of Push-T by an exported policy, in one process without torch.

pcm-export policy=released/pusht_mlp formats=[robot] output_dir=DIR
python examples/robot_evaluate.py DIR/robot [EPISODES] [SEED]
"""

import json
import sys

from pcm_policy.draws import draw
from pcm_policy.robot import load
from pcm_policy.rollout.evaluate import evaluate

if not sys.argv[1:]:
    sys.exit(__doc__)
folder, given = sys.argv[1], [int(word) for word in sys.argv[2:]]
episodes, seed = [*given, *(50, 100_000)[len(given) :]]
robot = load(folder)
steps = robot.package.steps if robot.package.stochastic else 0


def predict(obs, seeds, ticks):
    """Return the next actions; seed and tick name the noise, as in pcm-eval."""
    noise = draw(seeds.tolist(), ticks.tolist(), robot.package.chunk, steps)
    return robot.predict(obs, noise=noise).action


result = evaluate(
    predict,
    "pcm_policy.envs:pcm_policy/PushTKeypoints-v0",
    episodes=episodes,
    seed=seed,
    n_obs_steps=robot.spec.obs_steps,
    num_envs=1,
    solve_batch=1,
)
print(json.dumps(result.to_json()))

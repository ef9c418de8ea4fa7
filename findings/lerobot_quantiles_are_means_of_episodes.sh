#!/usr/bin/env bash
# The quantiles of a LeRobot 0.6.1 data set are means of its episodes' quantiles.
#
# Data:     two episodes of 101 steps; the one moves from 0 to 1, the other from 9 to 10.
# Expected: q01 and q99 in meta/stats.json near 0.02 and 9.98, the quantiles of all 202 values.
# Seen:     4.5 and 5.5. NormalizationMode.QUANTILES, the default of pi0.5 for states and actions,
#           then maps these data to -10.2 ... 10.2 instead of about -1 ... 1.
# Exits non-zero if that has changed. Needs Python 3.12 or newer; downloads torch.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3.12}
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q 'lerobot[dataset]==0.6.1'
cd "$work"
export HF_HOME="$work/hf" HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1
"$work/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import lerobot
import numpy as np
from lerobot.configs.types import NormalizationMode
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.pi05.configuration_pi05 import PI05Config

near = np.linspace(0, 1, 101, dtype=np.float32)
episodes = [near, near + 9]
features = {"action": {"dtype": "float32", "shape": (1,), "names": None}}
data = LeRobotDataset.create("me/two", 10, features, root="two", use_videos=False)
for episode in episodes:
    for value in episode:
        data.add_frame({"action": np.array([value]), "task": "move"})
    data.save_episode()
data.finalize()

stats = json.loads(Path("two/meta/stats.json").read_text())["action"]
both = np.concatenate(episodes)
true = np.quantile(both, [0.01, 0.99])
seen = np.array([stats["q01"][0], stats["q99"][0]])
mapped = 2 * (both - seen[0]) / (seen[1] - seen[0]) - 1
mode = PI05Config.__dataclass_fields__["normalization_mapping"].default_factory()
print("lerobot", lerobot.__version__)
print("q01, q99 of all values:", true.round(2), "in stats.json:", seen.round(2))
print("normalised by the latter:", mapped.min().round(1), "to", mapped.max().round(1))
print("pi0.5 normalises", {k: v.value for k, v in mode.items()})
assert np.allclose(seen, [4.51, 5.49], atol=0.05), "this has changed"
assert mode["ACTION"] is NormalizationMode.QUANTILES, "this has changed"
PY

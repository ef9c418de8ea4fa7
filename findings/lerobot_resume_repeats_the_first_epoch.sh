#!/usr/bin/env bash
# LeRobot 0.6.1: a training run that is resumed sees the frames of epoch 0 again, whatever epoch its log names.
#
# lerobot-train --resume=true prints "Resuming data order at epoch 1, sample 64" and sets its EpisodeAwareSampler to
# that state. Then it prepares the loader with accelerate, whose loader calls the sampler's set_epoch with its own
# count, which is 0 again: the order is that of epoch 0 from sample 64 on.
#
# Expected: the batches of an uninterrupted run from the same step on ("sample-exact resume", datasets/sampler.py).
# Seen:     those of epoch 0 with accelerate, and the right ones without it.
# This runs what scripts/lerobot_train.py does with sampler, loader, accelerate and cycle, on the numbers 0 to 479.
# Needs Python 3.12 and 5 GB. Exits non-zero if that has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3.12}" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --no-cache-dir 'lerobot[training]==0.6.1' 'torch==2.11.0' 'accelerate==1.15.0'
cat > "$work/order.py" <<'PY'
import sys
from importlib.metadata import version

import torch
from accelerate import Accelerator
from lerobot.datasets import EpisodeAwareSampler, compute_sampler_state
from lerobot.utils.utils import cycle

STARTS, STEP, BATCH = list(range(0, 480, 40)), 15, 32


def sampler():
    ends = [start + 40 for start in STARTS]
    return EpisodeAwareSampler(STARTS, ends, drop_n_last_frames=7, shuffle=True, seed=1)


def epoch(number):
    found = sampler()
    found.load_state_dict({"epoch": number, "start_index": 0})
    return list(found)


def batches(resumed, accelerated):
    found = sampler()
    if resumed:
        found.load_state_dict(compute_sampler_state(STEP, len(found), BATCH, 1))
    loader = torch.utils.data.DataLoader(list(range(480)), batch_size=BATCH, sampler=found)
    if accelerated:
        loader = Accelerator(cpu=True).prepare(loader)
    frames = cycle(loader)
    return [next(frames).tolist() for _ in range(1 if resumed else STEP + 1)]


print("lerobot", version("lerobot"), "accelerate", version("accelerate"), "torch", version("torch"))
state = compute_sampler_state(STEP, len(sampler()), BATCH, 1)
print("state to resume from after step", STEP, state)
seen = {}
for accelerated in (False, True):
    whole = batches(False, accelerated)[STEP]
    resumed = batches(True, accelerated)[0]
    seen[accelerated] = resumed == whole
    at = [e for e in range(3) if epoch(e)[state["start_index"] :][:BATCH] == resumed]
    name = "with accelerate" if accelerated else "without"
    print(f"{name}: the resumed batch is the uninterrupted run's: {seen[accelerated]}; of epoch {at}")
sys.exit(0 if seen == {False: True, True: False} else 1)
PY
"$work/venv/bin/python" "$work/order.py"

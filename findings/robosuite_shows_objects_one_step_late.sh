#!/usr/bin/env bash
# robosuite 1.5.2 shows where an object is from the hand as it was at the last observation.
#
# Expected: after a reset, Can_to_robot0_eef_pos is the can's place as the hand sees it, as 1.4.1 says.
# Seen:     zeros. The sensor is asked before Can_pos and reads that from the cache of the observation
#           before, here of none; from then on it is one step old. Its place among the numbers of
#           object-state has changed as well: in 1.4.1 the can's own pose comes first.
# Exits non-zero if that has changed. Needs Python 3.9 to 3.12 (PYTHON=...).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
python="$work/venv/bin/python"
cat >"$work/look.py" <<'EOF'
import numpy as np
import robosuite

env = robosuite.make("PickPlaceCan", robots="Panda", has_offscreen_renderer=False, use_camera_obs=False)
first = env.reset()
shown, place = first["Can_to_robot0_eef_pos"], first["Can_pos"]
print(robosuite.__version__, "first:", shown.round(3), "place first:", np.allclose(first["object-state"][:3], place))
assert np.any(shown) == (robosuite.__version__ == "1.4.1")
assert np.allclose(first["object-state"][:3], place) == (robosuite.__version__ == "1.4.1")
env.close()
EOF
for packages in 'robosuite==1.4.1 mujoco==3.3.0' 'robosuite==1.5.2 mujoco==3.3.0'; do
  # shellcheck disable=SC2086
  "$python" -m pip install -q $packages 'numpy<2' 2>/dev/null
  (cd "$work" && MUJOCO_GL=disabled "$python" look.py 2>/dev/null | grep first)
done

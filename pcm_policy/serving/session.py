"""What a server keeps of one connection: memories of its last plans, and its newest frames."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pcm_policy.control.images import read_frame
from pcm_policy.control.plan import Frame, Plan, PlanRequest, same_images
from pcm_policy.control.safety import frame_fault
from pcm_policy.control.settings import PolicySpec
from pcm_policy.control.wire import KEPT_FRAMES, WireError, read_frames, read_plan

KEPT_MEMORIES = 2  # the plan accepted last, and the one after it


class Session:
    """One connection; a new one begins with nothing.

    Args:
        spec: of the policy.
        forms: in which images are taken.
    """

    def __init__(self, spec: PolicySpec, forms: tuple[str, ...]) -> None:
        self._spec, self._forms = spec, forms
        self._memories: OrderedDict[int, Any] = OrderedDict()
        self._frames: OrderedDict[int, Frame] = OrderedDict()

    def frame(self, message: Mapping[str, Any]) -> Frame:
        """Keep the frame in a message, and return it; the oldest goes.

        Raises:
            WireError: it is not what the policy's cameras give.
        """
        frame = read_frame(message, self._spec, self._forms)
        known = self._frames.get(frame.number)
        if known is not None and same_images(known.images, frame.images):
            return known  # sent again after an error; it may be encoded already
        self._frames.pop(frame.number, None)
        self._frames[frame.number] = frame
        while len(self._frames) > KEPT_FRAMES * self._spec.obs_steps:
            self._frames.popitem(last=False)
        return frame

    def request(self, message: Mapping[str, Any]) -> tuple[PlanRequest, int | None]:
        """Return the request in a message, and the id of the plan that it comes after.

        Raises:
            WireError: it is not complete, or holds what no plan is made from.
        """
        spec = self._spec
        request, after = read_plan(message, spec)
        for row in request.obs:
            fault = frame_fault(row, spec)
            if fault is not None:
                raise WireError("value", fault)
        new = message.get("new", [])
        if not isinstance(new, list) or len(new) > spec.obs_steps:
            raise WireError("field", f"new are at most {spec.obs_steps} frames")
        for one in new:
            self.frame(one)
        frames = tuple(self._known(number) for number in read_frames(message, spec))
        memory = None if after is None else self._memories.get(after)
        return replace(request, memory=memory, frames=frames), after

    def remember(self, plan: Plan, after: int | None) -> None:
        """Keep what the next solve needs of a plan.

        Args:
            plan: the newest.
            after: the plan that the client stands on, which stays however many it asked for since.
        """
        self._memories[plan.id] = plan.memory
        while len(self._memories) > KEPT_MEMORIES:
            del self._memories[next(key for key in self._memories if key != after)]

    def _known(self, number: int) -> Frame:
        if number not in self._frames:
            raise WireError("frame", f"frame {number} is not here any more: send its images")
        return self._frames[number]

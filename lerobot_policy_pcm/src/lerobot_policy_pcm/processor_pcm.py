"""Processors of a pcm policy: it normalises on its own, so they only batch and move."""

from typing import Any

from lerobot.processor import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    NormalizerProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME as AFTER
from lerobot.utils.constants import POLICY_PREPROCESSOR_DEFAULT_NAME as BEFORE

from lerobot_policy_pcm.configuration_pcm import PCMConfig

Before = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]]
After = PolicyProcessorPipeline[PolicyAction, PolicyAction]


def make_pcm_pre_post_processors(
    config: PCMConfig, dataset_stats: object = None
) -> tuple[Before, After]:
    """Return what runs before and after the policy.

    Args:
        config: the policy's config.
        dataset_stats: not used; the policy carries the statistics it was trained with.
    """
    # lerobot-train sets these two by name when it resumes; they are the identity
    identity: dict[str, Any] = {"features": {}, "norm_map": config.normalization_mapping}
    before = [
        RenameObservationsProcessorStep(rename_map={}),  # lerobot-eval sets it by name
        AddBatchDimensionProcessorStep(),
        DeviceProcessorStep(device=config.device),
        NormalizerProcessorStep(**identity),
    ]
    after = [UnnormalizerProcessorStep(**identity), DeviceProcessorStep(device="cpu")]
    return (
        PolicyProcessorPipeline[dict[str, Any], dict[str, Any]](steps=before, name=BEFORE),
        PolicyProcessorPipeline[PolicyAction, PolicyAction](
            steps=after,
            name=AFTER,
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        ),
    )

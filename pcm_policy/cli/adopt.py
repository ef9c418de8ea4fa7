"""``pcm-import``: a checkpoint of another project becomes a policy folder."""

from dataclasses import asdict, replace
from pathlib import Path

from pcm_policy.adopt import Imported, Language, read
from pcm_policy.adopt.original import SelfCheck, self_check
from pcm_policy.cli.compose import writable
from pcm_policy.cli.settings.others import ImportSettings
from pcm_policy.errors import printable_lines
from pcm_policy.files import to_json, write_text
from pcm_policy.policy.folder import save_policy
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.reading import load_demonstrations


def import_main(config: ImportSettings) -> Path:
    """Read, check and write; returns the policy's folder."""
    output = writable(config.output_dir)
    language = Language(config.instruction, config.clip)
    imported = _named(read(config.source, language), config)
    policy = imported.policy()
    observations, sights = None, None
    if config.data is not None:
        dataset = DatasetConfig(config.data)
        data = load_demonstrations(dataset, imported.config, output / "frames")
        observations, sights = data.observations(policy), data.sights(policy)
    checked: SelfCheck | str = "self_check=false"
    if config.self_check:
        checked = self_check(imported, config.original_python)
    folder = output / "policy"
    text = _card(imported, checked)
    save_policy(policy, folder, card=text, observations=observations, sights=sights)
    write_text(output / "import.json", to_json(_report(imported, checked)))
    print(printable_lines("\n".join([*_lines(imported, checked), str(folder)])))
    return folder


def _named(imported: Imported, config: ImportSettings) -> Imported:
    """Put in what a user knows better than the checkpoint."""
    keys = {"control_hz": "control_hz", "action_field": "action_field", "name": "task"}
    said = {ours: getattr(config, key) for key, ours in keys.items()}
    given = {ours: value for ours, value in said.items() if value is not None}
    if config.obs_fields is not None:
        given["obs_fields"] = config.obs_fields
    notes = tuple(n for n in imported.notes if not any(f"{key} is" in n for key in given))
    return replace(imported, config=replace(imported.config, **given), notes=notes)


def _report(imported: Imported, checked: SelfCheck | str) -> dict[str, object]:
    check = asdict(checked) if isinstance(checked, SelfCheck) else {"not_run": checked}
    return {
        "kind": imported.kind,
        "source": Path(imported.file).name,
        "self_check": check,
        "notes": list(imported.notes),
        "policy": imported.config.to_dict(),
    }


def _lines(imported: Imported, checked: SelfCheck | str) -> list[str]:
    c = imported.config
    trained = "" if c.schedule.is_flow else f" of {c.schedule.train_steps} steps, {c.schedule.name}"
    lines = [
        f"{imported.kind}: {c.network}, observations ({c.obs_steps}, {c.obs_dim}), chunk "
        f"({c.horizon}, {c.action_dim}), executes steps {c.obs_steps - 1} to "
        f"{c.obs_steps - 2 + c.action_steps}",
        f"{c.sampler.label}{trained}, predicts {c.prediction}, clip {c.clip}",
        *([] if c.vision is None else [f"cameras {c.vision.describe()}"]),
        *imported.notes,
    ]
    if isinstance(checked, SelfCheck):
        return [*lines, checked.describe()]
    hint = "" if checked == "self_check=false" else "; original_python=PYTHON names one that has it"
    return [*lines, f"self-check not run ({checked}{hint})"]


def _card(imported: Imported, checked: SelfCheck | str) -> str:
    front = (
        "---\nlibrary_name: pcm_policy\npipeline_tag: robotics\ntags: [robotics, imported]\n---\n"
    )
    name = Path(imported.file).name
    head = f"# Imported from {imported.kind}\n\n`{name}`, read by `pcm-import`.\n\n"
    return front + head + "".join(f"- {line}\n" for line in _lines(imported, checked))

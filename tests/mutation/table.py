"""Deliberate single changes of the program, each of which some test must notice.

A change is a text that stands once in a file, what takes its place, and the tests that should fail.
"""

from dataclasses import dataclass

PCM = "pcm_policy"


@dataclass(frozen=True)
class Mutant:
    """A deliberate change.

    Attributes:
        file: within the repository.
        old: text that stands there exactly once.
        new: what takes its place.
        tests: what pytest is given.
    """

    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        """Return a file's text with the change made.

        Raises:
            ValueError: the text to change does not stand there exactly once.
        """
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file}: {text.count(self.old)} places of {self.old!r}")
        return text.replace(self.old, self.new)


SAMPLERS = (
    "tests/sampling/test_samplers.py",
    "tests/sampling/test_samplers_flow.py",
    "tests/sampling/test_samplers_multistep.py",
    "tests/sampling/test_temperature.py",
    "tests/sampling/test_samplers_diffusers.py",
)

CHANGES: dict[tuple[str, tuple[str, ...]], list[tuple[str, str]]] = {
    (f"{PCM}/sampling/samplers.py", SAMPLERS): [
        ("replace(full, p=share * full.p,", "replace(full, p=full.p,"),
        ("S=share * full.S,", "S=full.S,"),
    ],
    (f"{PCM}/sampling/dpmpp.py", SAMPLERS): [
        ("partial(dpmpp, order=2)", "partial(dpmpp, order=3)"),
    ],
    (f"{PCM}/sampling/config.py", SAMPLERS): [
        ("visited.new_tensor([-1])", "visited.new_tensor([0])"),
        ("visited - schedule.train_steps // config.steps", "visited - 1"),
    ],
    (f"{PCM}/sampling/ddpm.py", SAMPLERS): [
        ("clamp(min=1e-20)", "clamp(min=1e-3)"),
        ("variance * (1 - abar_next) / (1 - abar_now)", "variance / (1 - abar_now)"),
        ("torch.where(visited > 0, variance", "torch.where(visited >= 0, variance"),
    ],
    (f"{PCM}/sampling/ddim.py", SAMPLERS): [
        ("last = 1.0 if config.final_alpha_one else", "last = 1.0 if False else"),
        ("noise = eta *", "noise = 0.9 * eta *"),
        ("(1 - abar_next - noise**2)", "(1 - abar_next)"),
        ("abar_next.sqrt() / gain", "torch.ones_like(gain)"),
    ],
    (f"{PCM}/sampling/flow.py", SAMPLERS): [
        ("(sigma * schedule.train_steps).float()", "(sigma * schedule.train_steps).round()"),
        ("decay, 1.0 - decay, zeros", "decay, decay, zeros"),
    ],
    (f"{PCM}/sampling/affine.py", SAMPLERS): [
        ("S[j + 1], M[j + 1] = decay[j] * S[j]", "S[j + 1], M[j + 1] = S[j]"),
        ("M[j + 1, j - i] +=", "M[j + 1, j - i] ="),
    ],
    (
        f"{PCM}/sampling/multistep.py",
        (
            "tests/sampling/test_samplers.py",
            "tests/sampling/test_samplers_flow.py",
            "tests/sampling/test_samplers_multistep.py",
            "tests/sampling/test_temperature.py",
            "tests/sampling/test_samplers_diffusers.py",
        ),
    ): [
        ("FEW = 15", "FEW = 10"),
        ("gains[j, 1] -= 0.5", "gains[j, 1] -= 0.4"),
        ("if j == steps - 1:\n            use = 1", "if j == steps:\n            use = 1"),
    ],
    (
        f"{PCM}/sampling/denoise.py",
        (
            "tests/sampling/test_inpainting.py",
            "tests/solvers/test_prefix.py",
            "tests/sampling/test_samplers.py",
        ),
    ): [
        ("alpha * x - sigma * output", "alpha * x + sigma * output"),
        ("lerp(clean.clamp(-far, far), clipped,", "lerp(clipped, clean.clamp(-far, far),"),
        ("known.apply(x) if known.overwrite_input else x", "known.apply(x)"),
        ("clean = known.apply(clean)", "clean = clean"),
        ("torch.where(known, self.values[:, :steps], 0.0)", "self.values[:, :steps]"),
        ("self.known if len(self.known) == 1 else self.known[rows]", "self.known[:1]"),
    ],
    (f"{PCM}/solvers/loop.py", ("tests/solvers/test_start.py", "tests/solvers")): [
        ("if r.exact and r.X is not r.swept:", "if False:"),
        ("known = r.before.lo + 1 + r.exact", "known = r.before.lo + r.exact"),
        ("cold=guess is None)", "cold=False)"),
        ("largest < (torch.inf if r.whole else 0)", "largest < torch.inf"),
        ("own.clamp(-clip, clip)", "own"),
    ],
    (f"{PCM}/solvers/stops.py", ("tests/solvers/test_start.py", "tests/solvers")): [
        ("SAFETY = 4.0", "SAFETY = 2.0"),
        ("pad(moved[r.exact :], (0, 0, lo + 1, 0))", "pad(moved, (0, 0, x.lo + 1, 0))"),
        ("return self.safety * x.moved.amax(dim=0)", "return x.moved.amax(dim=0)"),
        ("torch.where(self.safety * moved <= self.error,", "torch.where(moved <= self.error,"),
        ("front = found if r.hi == N else torch.where(going, found, N)", "front = found"),
        ("torch.where(wide(at <= front, r.X), r.swept, r.X)", "r.X"),
        ("X = torch.where(wide(ahead, X), X, x.X)", "X = X"),
        ("taken=x.taken + going", "taken=x.taken + 1"),
        ("X = torch.where(wide(over, X[0]), x.X, X)", "X = now.X"),
        (
            "square().mean(dim=within(X[-1], 1)).sqrt()",
            "square().mean(dim=within(X[-1], 1))",
        ),
        ("return torch.where(x.over, torch.inf, super().bound(x))", "return super().bound(x)"),
    ],
    (f"{PCM}/solvers/system.py", ("tests/solvers", "tests/heads")): [
        ("X[: self.lo + 1] = self.X[: self.lo + 1]", "pass"),
        ("P = torch.where(wide(final, P), self.P, P)", "P = P"),
    ],
    (f"{PCM}/solvers/anderson.py", ("tests/solvers",)): [
        ("total[..., :-1, :]], dim=-2)", "total[..., 1:, :]], dim=-2)"),
        ("residual - last[1])[-self.memory :]", "residual - last[1])[-1 :]"),
        ("(V + C)).sum(dim=0)", "C).sum(dim=0)"),
    ],
    (f"{PCM}/solvers/jacobian.py", ("tests/heads/test_newton_head.py", "tests/solvers")): [
        (
            "self.diagonal[:, None] * (forced - states)",
            "self.diagonal[:, None] * (states - forced)",
        ),
        ("DAMPING = 0.8", "DAMPING = 0.2"),
    ],
    (f"{PCM}/solvers/coarse.py", ("tests/solvers",)): [
        ("if count >= s.steps - x.lo:", "if False:"),
        (
            "first, second = column == segment[:, None], column",
            "first, second = column == 0, column",
        ),
    ],
    (f"{PCM}/solvers/adaptive.py", ("tests/solvers",)): [
        ("if not r.whole or x.k >= self.head_rounds:", "if not r.whole:"),
        ("residual <= self.shrink * last[0]", "residual >= self.shrink * last[0]"),
    ],
    (f"{PCM}/solvers/paradigms.py", ("tests/solvers",)): [
        ("x = changed(x, X=start) if x.k == 0 else x", "x = x"),
    ],
    (f"{PCM}/heads/few_nodes.py", ("tests/heads", "tests/solvers")): [
        (".clamp(-LIMIT, LIMIT)", ".clamp(-1, 1)"),
        ("(found + share * correction)", "(found + correction)"),
        ("weights if self.bend is None else weights + self.bend", "weights"),
    ],
    (f"{PCM}/heads/window.py", ("tests/heads", "tests/solvers")): [
        (
            "found: Tensor = self.out(self.factors(h) * moved)\n        return scale * found",
            "found: Tensor = self.out(self.factors(h) * moved)\n        return found",
        ),
        ("rounds.clamp(max=self.max_rounds - 1)", "rounds.clamp(max=0)"),
    ],
    (f"{PCM}/heads/lora.py", ("tests/heads", "tests/solvers")): [
        ("+ share * self.scale * delta", "+ self.scale * delta"),
        ("self.scale = alpha / rank", "self.scale = alpha"),
    ],
    (
        f"{PCM}/policy/normalize.py",
        ("tests/policy/test_normalize.py", "tests/policy/test_damaged.py"),
    ): [
        ("1.0 / torch.where(flat, 1.0, spread)", "0.5 / torch.where(flat, 1.0, spread)"),
        ("rows.std(0, correction=0)", "rows.std(0)"),
        (".clamp(self._least, self._most)", ""),
        ("_all(scale > 0,", "_all(scale != 0,"),
        ("(raw - self.high).clamp(min=0)) / self.unit", "(raw - self.high)) / self.unit"),
        ("torch.where(width * self.scale > 1,", "torch.where(width * self.scale > 9,"),
    ],
    ("datasets/windows.py", ("tests/datasets/test_windows.py",)): [
        ("start - before, end - horizon + after + 1", "start - before, end - horizon + after"),
        ("start - before, end", "start, end"),
        ("start, end - 1))", "start, end))"),
        ("n_val = min(wanted, n_episodes - 1)", "n_val = wanted"),
        ("max(1, round(n_episodes * val_fraction))", "round(n_episodes * val_fraction)"),
    ],
    (f"{PCM}/limits.py", ("tests/test_limits.py", "tests/control")): [
        ("out[:, 0] = np.clip(first, self._low, self._high)", "out[:, 0] = first"),
        ("for i in range(1, out.shape[1]):", "for i in range(2, out.shape[1]):"),
        (
            'return _finite("the limited action", sent)',
            "return sent",
        ),
        ("np.all(low <= high)", "np.all(low < high)"),
    ],
    (f"{PCM}/control/controller.py", ("tests/control",)): [
        ("self._planned + settings.replan(self.spec):", "self._planned + 1:"),
        ("self._due = self.tick + due", "self._due = self.tick"),
        ("if request is None or plan.id != request.id:", "if request is None:"),
        ("if age > oldest or", "if age >= oldest or"),
        (
            "self._memory, self._memory_clock = plan.memory, request.clock",
            "self._memory = plan.memory",
        ),
        ("self.clock += self.settings.slow_factor if", "self.clock += 1.0 if"),
        ("self._seam = self._seam and not seam", "pass"),
        ("self._past.append(action)", "pass"),
    ],
    (f"{PCM}/control/plan.py", ("tests/control",)): [
        ("share = np.float32(place - i)", "share = np.float32(0)"),
        ("(steps + 1))[:, None]", "steps)[:, None]"),
        ("first = round(clock - new.start)", "first = 0"),
    ],
    (f"{PCM}/control/safety.py", ("tests/control",)): [
        ("not excess[worst] <= spec.max_excess:", "excess[worst] > 2 * spec.max_excess:"),
        ("if not excess.max() <= spec.max_excess:", "if False:"),
        ("if not np.array_equal(inside, action):", "if False:"),
    ],
    (
        f"{PCM}/rollout/episodes.py",
        ("tests/rollout/test_episodes.py", "tests/rollout/test_evaluate.py"),
    ): [
        (
            "self.score = max(self.score, float(step.rewards[slot]))",
            "self.score = float(step.rewards[slot])",
        ),
        (
            "self.success = either(self.success, step.success_of(slot))",
            "self.success = step.success_of(slot)",
        ),
        ("self.steps += count", "self.steps += len(chunk)"),
        ("self.chunks.append(chunk[:count].copy())", "self.chunks.append(chunk.copy())"),
        ("seat = index % batch", "seat = place"),
        ("if not step.finite[slot]:", "if False:"),
    ],
    (
        f"{PCM}/rollout/trials.py",
        ("tests/rollout/test_episodes.py", "tests/rollout/test_shards.py"),
    ): [
        ("Run(number, self.seed + number)", "Run(number, self.seed)"),
    ],
    (f"{PCM}/rollout/chunks.py", ("tests/rollout/test_evaluate.py",)): [
        ("if np.isfinite(actions[row]).all():", "if True:"),
        ("ticks = np.array([run.steps", "ticks = np.array([0 * run.steps"),
        ("seeds = np.array([run.seed for", "seeds = np.array([run.index for"),
    ],
    (
        f"{PCM}/rollout/outcomes.py",
        ("tests/rollout/test_episodes.py", "tests/rollout/test_evaluate.py"),
    ): [
        ("successes / len(self.episodes)", "successes / max(1, len(self._scored()))"),
        ("sum(bool(episode.success)", "sum(episode.success is not None"),
    ],
    (
        f"{PCM}/policy/folder.py",
        ("tests/policy/test_checkpoint.py", "tests/policy/test_damaged.py"),
    ): [("config.head.base != fingerprint(policy.network)", "not config.head.base")],
    (
        f"{PCM}/policy/config_file.py",
        ("tests/policy/test_checkpoint.py", "tests/policy/test_damaged.py"),
    ): [("if version != FORMAT_VERSION or isinstance(version, bool):", "if False:")],
    (f"{PCM}/policy/fingerprint.py", ("tests/policy/test_fingerprint.py",)): [
        ("digest.update(name.encode())", "pass"),
    ],
    (f"{PCM}/policy/tensors.py", ("tests/policy/test_checkpoint.py",)): [
        ("if not rounded.isfinite().all():", "if False:"),
        ("if all(torch.equal(v.half().float(), v) for v in wide.values()):", "if False:"),
    ],
    (f"{PCM}/training/sharing.py", ("tests/training/test_sharing.py",)): [
        ("torch.arange(each) * self.world + self.rank", "torch.arange(each) + self.rank * each"),
        ("transpose(0, 1).flatten(0, 1)[:count]", "flatten(0, 1)[:count]"),
    ],
    (f"{PCM}/training/denoising.py", ("tests/training/test_accumulation.py",)): [
        ("drawn.asked * len(target) * target.shape[-1]", "weight.sum()"),
    ],
    (f"{PCM}/training/loop.py", ("tests/training/test_accumulation.py",)): [
        ("weights.loss(step, part) / parts", "weights.loss(step, part)"),
    ],
    ("datasets/formats/manifest.py", ("tests/datasets/test_parts.py",)): [
        ("_digest(folder / self.name / place) != digest", "False"),
        ("elif file.stat().st_size != size:", "elif False:"),
    ],
    ("datasets/formats/parts.py", ("tests/datasets/test_parts.py",)): [
        ("part.episode_ends + start", "part.episode_ends"),
    ],
    (f"{PCM}/measure/statistics.py", ("tests/measure/test_statistics.py",)): [
        ("(1 - confidence) / 2\n    low", "(1 - confidence)\n    low"),
        ("centre = rate + z * z / (2 * trials)", "centre = rate"),
    ],
}
MUTANTS = [
    Mutant(file, old, new, tests)
    for (file, tests), changes in CHANGES.items()
    for old, new in changes
]

"""Scikit-learn's handwritten digits as tensors, and a Frechet distance on features of their own."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcm_policy.optional import require

CLASSES = 10
NONE = CLASSES
"""The label that stands for no label, in guidance."""
SHAPE = (1, 8, 8)


@dataclass(frozen=True)
class Digits:
    """Images ``(n, 1, 8, 8)`` in [-1, 1] and labels ``(n,)``."""

    images: Tensor
    labels: Tensor

    @classmethod
    def load(cls) -> "Digits":
        """Return the 1,797 digits of scikit-learn (Alpaydin and Kaynak 1998), in a fixed order."""
        data = require("sklearn.datasets", "this example", "images").load_digits()
        images = torch.from_numpy(data.images).float()[:, None] / 8.0 - 1.0
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        return cls(images[order], torch.from_numpy(data.target).long()[order])

    def split(self, count: int) -> "tuple[Digits, Digits]":
        """Return the first ``count`` and the others."""
        first, rest = slice(count), slice(count, None)
        return (
            Digits(self.images[first], self.labels[first]),
            Digits(self.images[rest], self.labels[rest]),
        )


class Classifier(nn.Module):
    """A small convolutional network; its last hidden layer gives the features."""

    def __init__(self, features: int = 24) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 16, features),
            nn.Tanh(),
        )
        self.top = nn.Linear(features, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """Return ``(n, features)`` of images ``(n, 1, 8, 8)``."""
        found: Tensor = self.body(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, 10)``."""
        found: Tensor = self.top(self.features(images))
        return found


def trained_classifier(digits: Digits, steps: int, seed: int = 0) -> tuple[Classifier, float]:
    """Train a classifier on five sixths of the digits; returns it and its accuracy on the rest."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Classifier()
        train, rest = digits.split(5 * len(digits.labels) // 6)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(steps):
            rows = torch.randint(len(train.labels), (128,))
            loss = nn.functional.cross_entropy(model(train.images[rows]), train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval().requires_grad_(False)
    right = model(rest.images).argmax(dim=1) == rest.labels
    return model, float(right.float().mean())


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance of two sets of features, ``(n, f)`` and ``(m, f)``.

    That of Gaussians with their means and covariances (Heusel et al. 2017, FID, whose features are
    an Inception network's; figures of other features do not compare).
    """
    mean_a, mean_b = a.double().mean(dim=0), b.double().mean(dim=0)
    cov_a, cov_b = torch.cov(a.double().T), torch.cov(b.double().T)
    # the trace of the root of cov_a cov_b, whose eigenvalues are real and not negative
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    apart = (mean_a - mean_b).square().sum()
    return float(apart + cov_a.trace() + cov_b.trace() - 2 * roots)

"""The loss functions by name. Shape suffixes: N examples, K classes.

The target of an example is its one-hot label, or, where `smoothing_N` has a number for each example, (1 − smoothing)
times that plus smoothing / K (Szegedy et al., 2016, "Rethinking the inception architecture for computer vision").
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _cross_entropy(logits_NK: Tensor, labels_N: Tensor, smoothing_N: Tensor | None) -> Tensor:
    """Negative log-softmax of the label; smoothed, the mean of it over the target."""
    if smoothing_N is None:
        return F.cross_entropy(logits_NK, labels_N, reduction="none")
    logs_NK = logits_NK.log_softmax(dim=1)
    loss_N = F.nll_loss(logs_NK, labels_N, reduction="none")
    smoothed_N = (1 - smoothing_N) * loss_N - smoothing_N * logs_NK.mean(dim=1)
    return torch.where(smoothing_N > 0, smoothed_N, loss_N)  # 0 · ∞ is not 0


def _target(labels_N: Tensor, smoothing_N: Tensor | None, like_NK: Tensor) -> Tensor:
    """Like F.one_hot, but smoothed, and without looking at the labels on the host first."""
    classes = torch.arange(like_NK.shape[1], device=labels_N.device)
    one_hot_NK = (labels_N.unsqueeze(1) == classes).to(like_NK.dtype)
    if smoothing_N is None:
        return one_hot_NK
    smoothing_N1 = smoothing_N.unsqueeze(1)
    return one_hot_NK * (1 - smoothing_N1) + smoothing_N1 / len(classes)


def _mse(logits_NK: Tensor, labels_N: Tensor, smoothing_N: Tensor | None) -> Tensor:
    """Squared error between the softmax and the target, mean over the classes."""
    target_NK = _target(labels_N, smoothing_N, logits_NK)
    return F.mse_loss(logits_NK.softmax(dim=1), target_NK, reduction="none").mean(dim=1)


def _bce(logits_NK: Tensor, labels_N: Tensor, smoothing_N: Tensor | None) -> Tensor:
    """Binary cross-entropy between the sigmoid of each logit and the target, mean over the classes."""
    target_NK = _target(labels_N, smoothing_N, logits_NK)
    # Not F.binary_cross_entropy_with_logits: its backward pass is torch.sigmoid again (see `activations._sigmoid_`).
    return ((1 - target_NK) * logits_NK - F.logsigmoid(logits_NK)).mean(dim=1)


# logits (N, K), labels (N,), smoothing (N,) or None → the loss of each example (N,)
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "cross_entropy": _cross_entropy,
    "mse": _mse,
    "bce": _bce,
}

"""The loss functions by name. Shape suffixes: N examples, K classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def _cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Negative log-softmax of the label."""
    return F.cross_entropy(logits_NK, labels_N, reduction="none")


def _one_hot(labels_N: Tensor, like_NK: Tensor) -> Tensor:
    """Like F.one_hot, but without looking at the labels on the host first."""
    classes = torch.arange(like_NK.shape[1], device=labels_N.device)
    return (labels_N.unsqueeze(1) == classes).to(like_NK.dtype)


def _mse(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Squared error between the softmax and the one-hot label, mean over the classes."""
    one_hot_NK = _one_hot(labels_N, logits_NK)
    return F.mse_loss(logits_NK.softmax(dim=1), one_hot_NK, reduction="none").mean(dim=1)


def _bce(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Binary cross-entropy between the sigmoid of each logit and the one-hot label, mean over the classes."""
    one_hot_NK = _one_hot(labels_N, logits_NK)
    # Not F.binary_cross_entropy_with_logits: its backward pass is torch.sigmoid again (see `activations._sigmoid_`).
    return ((1 - one_hot_NK) * logits_NK - F.logsigmoid(logits_NK)).mean(dim=1)


# logits (N, K), labels (N,) → the loss of each example (N,)
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": _cross_entropy, "mse": _mse, "bce": _bce}

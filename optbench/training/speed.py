"""How long a stack takes for an image on this device: a few steps are timed, on random images."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from optbench.data.datasets import Dataset, Split
from optbench.sweep.stacks import Stack
from optbench.training import engine

# Weights move so little that no trial diverges and leaves the stack; the arithmetic is the same.
LEARNING_RATE = 1e-12
STEPS_CPU, STEPS = 4, 200  # fewer on a GPU would mostly time drawing an epoch's random numbers
_EVALUATED, _FEWEST_IMAGES = 256, 256


def on_random_images(stack: Stack, images: int, epochs: int, device: str) -> engine.Rows:
    """Training of the stack's trials for so many epochs on so many random images."""
    generator = torch.Generator().manual_seed(0)

    info = replace(stack.data, val=_EVALUATED, train=images)

    def split(size: int) -> Split:
        pixels = torch.randint(256, (size, *info.image), generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.randint(info.classes, (size,), generator=generator))

    evaluated = split(_EVALUATED)
    data = Dataset(stack.dataset, info, split(images), evaluated, evaluated, evaluated)
    slow = {"lr": LEARNING_RATE}
    trials = [
        replace(t, epochs=epochs, steps=None, hyperparameters=t.hyperparameters.model_copy(update=slow))
        for t in stack.trials
    ]
    return engine.train(Stack(tuple(trials)), data, device)


def seconds_per_image(stack: Stack, device: str) -> tuple[float, float]:
    """Seconds for one image of every trial of the stack: to train on it and to evaluate it.

    Zeros where every optimizer failed.
    """
    steps = max(STEPS_CPU if device == "cpu" else STEPS, _FEWEST_IMAGES // stack.batch_size)
    images = min(stack.data.train, steps * stack.batch_size)
    trained, clocks = [], []
    for rows in on_random_images(stack, images, 2, device):
        trained.append(rows[0]["train_seconds"])
        clocks.append(time.perf_counter())
    if len(trained) < 3:  # every optimizer failed, and will fail in the run, too
        return 0.0, 0.0
    training = trained[2] - trained[1]  # the first epoch warms up
    evaluation = (clocks[2] - clocks[1]) - training
    return training / images, max(0.0, evaluation) / (3 * _EVALUATED)

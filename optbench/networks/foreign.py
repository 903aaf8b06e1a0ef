"""Networks from elsewhere: any `torch.nn.Module` from images (B, C, H, W) to logits (B, K) that can be imported.

A sweep file names them `./file.py:Class` (beside the sweep file) or `package.module:Class`; a function that returns a
module will do as well. What is known of one, two passes show, over two images and over three.

Shape suffixes: B batch, C channels, H W image, K classes, U dropout units.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from optbench import elsewhere
from optbench.errors import UserError
from optbench.machine.randomness import seeded
from optbench.networks.layers import Shape
from optbench.wording import wrong

Arguments = tuple[tuple[str, Any], ...]

# What a constructor's argument of such a name is given where it has no default and the sweep file does not set it.
FROM_DATA: Mapping[str, Callable[[Shape, int], Any]] = {
    "num_classes": lambda image, classes: classes,
    "classes": lambda image, classes: classes,
    "in_channels": lambda image, classes: image[0],
    "channels": lambda image, classes: image[0],
    "image_size": lambda image, classes: image[1] if image[1] == image[2] else image[1:],
}

# ---------------------------------------------------------------- names and arguments


@cache
def find(name: str, folder: Path) -> Callable[..., Any]:
    """The class or the function behind a name; a file is looked for in `folder`. Raises `UserError`."""
    found: Callable[..., Any] = elsewhere.named(name, folder, _is_module, "networks")
    if not (_is_module(found) or inspect.isfunction(found)):
        raise UserError(f"{name} is {elsewhere.in_words(found)}, not a torch.nn.Module")
    return found


def _is_module(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module) and value is not nn.Module


def source(name: str, folder: Path) -> str:
    """A digest of the file that defines it."""
    return elsewhere.source(find(name, folder))


def arguments(name: str, folder: Path) -> dict[str, tuple[Any, Any]]:
    """The type and the default of each argument that a sweep file may set."""
    found = {}
    for own in inspect.signature(find(name, folder)).parameters.values():
        if own.kind in (own.VAR_POSITIONAL, own.VAR_KEYWORD) or (kind := _kind(own)) is None:
            continue
        default = tuple(own.default) if isinstance(own.default, list) else own.default
        found[own.name] = kind, None if own.name in FROM_DATA and default is own.empty else default
    return found


def _kind(argument: inspect.Parameter) -> Any:
    """The type of an argument, from its default; lists may have any length."""
    default, kind = argument.default, elsewhere.kind(argument)
    if isinstance(default, tuple | list) and kind is not Any and kind is not None:
        part: Any = float if any(isinstance(value, float) for value in default) else elsewhere.Whole
        return Annotated[tuple[part, ...], Field(strict=False, min_length=1)]
    return Annotated[Any, AfterValidator(_plain)] if kind is Any else kind


def _plain(value: Any) -> Any:
    """A value of any type as trials have it: what is equal is the same, however it is written."""
    if isinstance(value, dict):
        raise wrong("must be a number, a text or a list")
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


# ---------------------------------------------------------------- dropout


@dataclass(frozen=True)
class Place:
    """A call of a dropout layer in a forward pass: its rate, and how the numbers of the examples become its mask.

    `shape` is the mask's for one example, in which `axis` is the one that grows with the batch.
    """

    name: str
    rate: float
    shape: Shape
    axis: int

    @property
    def units(self) -> int:
        """How many units of an example it decides about."""
        return math.prod(self.shape)

    def mask(self, scale_BU: Tensor) -> Tensor:
        """What the layer's input is multiplied with."""
        mask: Tensor = scale_BU.unflatten(1, self.shape).movedim(0, self.axis)
        return mask.flatten(self.axis, self.axis + 1)


_OF_CHANNELS = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


class _Dropouts:
    """The dropout layers of a module, which draw nothing themselves: each call multiplies with the next mask."""

    def __init__(self, module: nn.Module) -> None:
        self._masks: Iterator[Tensor] | None = None
        self._calls: list[tuple[str, float, Shape]] = []
        for name, layer in module.named_modules():
            if type(layer) in (nn.Dropout, *_OF_CHANNELS):
                layer.forward = partial(self._forward, name, layer)

    def _forward(self, name: str, layer: Any, x: Tensor) -> Tensor:
        if not layer.training or layer.p == 0:
            return x
        if self._masks is not None:
            return x * next(self._masks).to(x.dtype)
        shape = x.shape[:2] + (1,) * (x.dim() - 2) if isinstance(layer, _OF_CHANNELS) else x.shape
        self._calls.append((name, float(layer.p), tuple(shape)))
        return x

    @contextmanager
    def given(self, masks: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the calls multiply with these in turn; with nothing if there are none."""
        self._masks = iter(masks) if masks else None
        try:
            yield
        finally:
            self._masks = None

    def calls(self) -> list[tuple[str, float, Shape]]:
        """Those without masks since this was asked last: the layer's name, its rate and the shape of a mask."""
        calls, self._calls = self._calls, []
        return calls


def _places(
    name: str, two: Sequence[tuple[str, float, Shape]], three: Sequence[tuple[str, float, Shape]]
) -> list[Place]:
    """From the calls with two images and with three."""
    if [call[:2] for call in two] != [call[:2] for call in three]:
        raise UserError(f"{name} calls other dropout layers for other images; each pass must call the same")
    places: list[Place] = []
    for (layer, rate, shape), (*_, other) in zip(two, three, strict=True):
        grown = [axis for axis, sizes in enumerate(zip(shape, other, strict=True)) if sizes[0] != sizes[1]]
        if len(grown) != 1 or 3 * shape[grown[0]] != 2 * other[grown[0]]:
            raise UserError(f"{name}: the input of '{layer}' has no dimension that grows with the batch")
        if rate >= 1:
            raise UserError(f"{name}: '{layer}' drops everything, its p is {rate:g}")
        axis = grown[0]
        own = (*shape[:axis], shape[axis] // 2, *shape[axis + 1 :])
        again = sum(place.name.partition(" ")[0] == layer for place in places)
        places.append(Place(f"{layer} ({again + 1})" if again else layer, rate, own, axis))
    return places


# ---------------------------------------------------------------- a module that can be called with any tensors


class Callee:
    """A module whose parameters and buffers are given with every call."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.dropouts = module, _Dropouts(module)
        owners = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        first: dict[int, str] = {}
        # A tensor that a module has under two names is one tensor, named by the first.
        self._also = {name: first[id(own)] for name, own in owners if first.setdefault(id(own), name) != name}

    def __call__(self, tensors: dict[str, Tensor], images_BCHW: Tensor, masks: Sequence[Tensor], training: bool) -> Any:
        """What its forward returns. In `tensors` those that it replaced are the new ones afterwards."""
        if self.module.training != training:
            self.module.train(training)
        tensors |= {name: tensors[first] for name, first in self._also.items()}
        with self.dropouts.given(masks):
            return functional_call(self.module, tensors, (images_BCHW,), tie_weights=False)


# ---------------------------------------------------------------- what passes show


@dataclass(frozen=True)
class _Pass:
    """A pass in training: the calls of dropout layers, and how many bytes autograd kept of it."""

    calls: list[tuple[str, float, Shape]]
    kept_bytes: int


class ForeignArchitecture:
    """A module from elsewhere for images of the shape (C, H, W), with the face of an `Architecture`.

    shapes: those of the parameters that are trained.   buffer_shapes: those of all its other tensors, frozen
    parameters among them, that each trial has for itself.   dropout: for each place which of `rates` it has, and for
    how many units of an example.   is_channels_last: whether it works with images in that memory format, in which
    convolutions on a CPU are faster.

    Raises `UserError` where it cannot be made, or cannot train on such images.
    """

    def __init__(self, name: str, make: Callable[[], Any], image: Shape, classes: int) -> None:
        self.name, self.image, self.classes, self._make = name, image, classes, make
        self._callees: dict[torch.device, Callee] = {}
        module = self.build(0)
        trained, other = self.tensors(module)
        self.shapes = {name: tuple(own.shape) for name, own in trained.items()}
        self.buffer_shapes = {name: tuple(own.shape) for name, own in other.items()}
        self.buffer_types = {name: own.dtype for name, own in other.items()}
        two, three = (self._observed(n) for n in (2, 3))
        self.places = _places(name, two.calls, three.calls)
        self.activation_bytes = 2 * max(4 * math.prod(image), three.kept_bytes - two.kept_bytes)
        self.is_channels_last = self._works_channels_last()

    @property
    def size(self) -> int:
        """How many parameters are trained, counted as numbers."""
        return sum(map(math.prod, self.shapes.values()))

    @property
    def dropout(self) -> dict[str, tuple[int, int]]:
        """For each place where dropout acts: which of `rates` it has, and for how many units of an example."""
        return {place.name: (i, place.units) for i, place in enumerate(self.places)}

    @cached_property
    def head(self) -> tuple[str, ...]:
        """The names of the parameters of the last linear layer, in the order of its constructor."""
        linear = [name for name, part in self.build(0).named_modules() if isinstance(part, nn.Linear)]
        return tuple(own for own in self.shapes if linear and own.rpartition(".")[0] == linear[-1])

    @property
    def body(self) -> dict[str, Shape]:
        """The shapes of all other parameters, by name; none where there is no such layer."""
        return {name: shape for name, shape in self.shapes.items() if name not in self.head} if self.head else {}

    head_dropout: tuple[str, ...] = ()  # where all but the head is fixed, the module is in evaluation mode

    def rates(self, of_trial: tuple[float, float]) -> list[float]:
        """The rate of each place: the module's own, whatever the trial's are."""
        return [place.rate for place in self.places]

    @cached_property
    def step_operations(self) -> int:
        """Floating-point operations of one training step for one image, of those kinds that torch counts."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter, seeded("probe", "cpu"):
            tensors, images_BCHW = self._example(2)
            self._logits(tensors, images_BCHW, True).sum().backward()
        return int(counter.get_total_flops()) // 2

    def build(self, seed: int) -> nn.Module:
        """A new module, whose constructor drew what it draws under this seed; always on the CPU."""
        with seeded(f"{seed} network", "cpu"):
            try:
                module = self._make()
            except Exception as error:
                raise UserError(f"{self.name} cannot be made: {elsewhere.one_line(error)}") from None
        if not isinstance(module, nn.Module):
            raise UserError(f"{self.name} makes {elsewhere.in_words(module)}, not a torch.nn.Module")
        return module

    def callee(self, device: torch.device) -> Callee:
        """The module that computes on a device, made once."""
        if device not in self._callees:
            with torch.inference_mode(False):  # an evaluation may be the first to ask
                self._callees[device] = Callee(self.build(0).to(device))
        return self._callees[device]

    def tensors(self, module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Its parameters that are trained, and all other tensors that are its state."""
        every = [*module.named_parameters(), *module.named_buffers()]
        for name, own in every:
            if is_lazy(own):
                raise UserError(f"{self.name}: '{name}' is lazy; make its layer with all its sizes")
            if own.is_complex():
                raise UserError(f"{self.name}: '{name}' is complex; only real tensors can be trained here")
        trained = {name: own.detach() for name, own in every if own.requires_grad}
        if not trained:
            raise UserError(f"{self.name} has no parameters to train")
        return trained, {name: own.detach() for name, own in every if name not in trained}

    def _refuse(self, why: str) -> UserError:
        return UserError(f"{self.name} cannot train on images of {' × '.join(map(str, self.image))}: {why}")

    def _example(self, images: int) -> tuple[dict[str, Tensor], Tensor]:
        trained, other = self.tensors(self.callee(torch.device("cpu")).module)
        leaves = {name: own.clone().requires_grad_() for name, own in trained.items()}
        images_BCHW = torch.randn(images, *self.image, generator=torch.Generator().manual_seed(0))
        return leaves | {name: own.clone() for name, own in other.items()}, images_BCHW

    def _logits(self, tensors: dict[str, Tensor], images_BCHW: Tensor, training: bool) -> Tensor:
        """The logits of a pass, or why there are none. Dropout layers drop nothing."""
        try:
            made = self.callee(torch.device("cpu"))(tensors, images_BCHW, (), training)
        except Exception as error:
            raise self._refuse(f"given images (B, C, H, W), its forward raises {elsewhere.one_line(error)}") from None
        if not isinstance(made, Tensor):
            raise self._refuse(f"its forward returns {elsewhere.in_words(made)}, not logits (B, {self.classes})")
        if made.shape != (len(images_BCHW), self.classes):
            batch = ("B" if size == len(images_BCHW) else str(size) for size in made.shape)
            raise self._refuse(f"its forward returns ({', '.join(batch)}), not logits (B, {self.classes})")
        return made

    def _observed(self, images: int) -> _Pass:
        callee = self.callee(torch.device("cpu"))
        tensors, images_BCHW = self._example(images)
        given, before = dict(tensors), {name: own.detach().clone() for name, own in tensors.items()}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        attributes = _attributes(callee.module)
        with self._without_draws(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits_BK = self._logits(tensors, images_BCHW, True)
        calls = callee.dropouts.calls()
        if changed := _changed(attributes, _attributes(callee.module)):
            raise self._refuse(
                f"its forward changes '{changed}', which trials would share; what it keeps must be a buffer"
            )
        for name, own in given.items():
            if name in self.shapes and not (tensors[name] is own and torch.equal(own, before[name])):
                raise self._refuse(f"its forward changes the parameter '{name}', which only the optimizer may do")
            if tensors[name].shape != own.shape:
                raise self._refuse(f"its forward changes the shape of the buffer '{name}'")
        if not logits_BK.requires_grad:
            raise self._refuse("its logits do not depend on its parameters")
        with self._without_draws(), torch.no_grad():
            self._logits(tensors, images_BCHW, False)
        return _Pass(calls, sum(own.untyped_storage().nbytes() for own in kept.values()))

    @contextmanager
    def _without_draws(self) -> Iterator[None]:
        with seeded("probe", "cpu"):
            before = _generators()
            yield
            if _generators() != before:
                raise self._refuse(
                    "its forward draws random numbers, which would not be the trial's own: use nn.Dropout, Dropout1d, "
                    "Dropout2d or Dropout3d as layers, instead of functions, other dropout or noise"
                )

    def _works_channels_last(self) -> bool:
        if not any(len(shape) == 4 for shape in self.shapes.values()):
            return False
        tensors, images_BCHW = self._example(2)
        expected_BK = self._logits(dict(tensors), images_BCHW, True)
        tensors, _ = self._example(2)
        try:
            made_BK = self._logits(channels_last(tensors), channels_last({"": images_BCHW})[""], True)
            made_BK.sum().backward()
        except (UserError, RuntimeError):
            return False
        return torch.allclose(made_BK, expected_BK, rtol=1e-3, atol=1e-4)


def channels_last(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of four dimensions in that memory format."""
    return {name: _channels_last(own) if own.dim() == 4 else own for name, own in tensors.items()}


def _channels_last(x: Tensor) -> Tensor:
    if x.shape[1] == 1:  # lies in memory alike in both formats, but only these strides say so
        return x.squeeze(1).contiguous().unsqueeze(-1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def _generators() -> list[Any]:
    """Where the generators are that a forward pass could draw from."""
    name, words, *place = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), name, list(words), place]


# Attributes that every module has, and that change when it is called, or have checks of their own.
_OF_MODULES = {"training", "_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs"}
_VALUES = (bool, int, float, str, type(None))


def _attributes(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """What the parts of a module hold besides parameters and buffers: what tells each value, and the value itself.

    Without the value another object could take its place in memory, and be told alike.
    """
    return {
        f"{path}.{name}".lstrip("."): (_told(value), value)
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if name not in _OF_MODULES
    }


def _told(value: Any) -> Any:
    match value:
        case Tensor():
            return id(value), value._version
        case list() | tuple() | set():
            return [own if isinstance(own, _VALUES) else id(own) for own in value]
        case dict():
            return _told([*value, *value.values()])
    return value if isinstance(value, _VALUES) else id(value)


def _changed(before: Mapping[str, tuple[Any, Any]], after: Mapping[str, tuple[Any, Any]]) -> str | None:
    """The first attribute that is not what it was."""
    for name in [*before, *after]:
        if name not in before or name not in after or before[name][0] != after[name][0]:
            return name
    return None


def architecture(name: str, folder: Path, arguments: Arguments, image: Shape, classes: int) -> ForeignArchitecture:
    """The module of a name with these arguments, for images (C, H, W) of so many classes. Raises `UserError`."""
    return _architecture(name, find(name, folder), arguments, image, classes)


@cache
def _architecture(
    name: str, found: Callable[..., Any], arguments: Arguments, image: Shape, classes: int
) -> ForeignArchitecture:
    taken = inspect.signature(found).parameters
    from_data = {
        own: of(image, classes)
        for own, of in FROM_DATA.items()
        if own in taken and taken[own].default is inspect.Parameter.empty
    }
    return ForeignArchitecture(name, partial(found, **(from_data | dict(arguments))), image, classes)

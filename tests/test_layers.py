"""Every layer's shapes and numbers against torch's own functions, for geometries at random."""

from itertools import count

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm
from torch import nn
from torch.nn import functional as F

from optbench.errors import UserError
from optbench.networks.activations import ACTIVATIONS
from optbench.networks.architecture import Architecture
from optbench.networks.convolution import grouped, of_one_trial, unfolded
from optbench.networks.forward import Pass, forward, side_by_side
from optbench.networks.initial import (
    Constant,
    Normal,
    TruncatedNormal,
    Uniform,
    glorot_normal,
    glorot_uniform,
    he_normal,
)
from optbench.networks.layers import (
    Activation,
    AveragePool,
    BatchNorm,
    Concatenation,
    Convolution,
    Dropout,
    Dropout2d,
    Flatten,
    GlobalPool,
    Layer,
    MaxPool,
    Sequence,
    Shortcut,
    Sum,
    blocks_per_stage,
)

SIDES = st.integers(1, 12)
SHAPES = st.tuples(st.integers(1, 4), SIDES, SIDES)
TRIALS = st.integers(1, 3)
BATCH = 2
at_random = settings(max_examples=60, deadline=None, derandomize=True)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stack_of(layer, shape, trials, **options):
    """A pass with weights, buffers and scales at random."""
    architecture, seeds = Architecture(Sequence(layer), shape), count(1)
    given = {
        "training": True,
        "activation": ACTIVATIONS["relu"],
        "precision": "fp32",
        "weights": {p.name: normal(trials, *p.shape, seed=next(seeds)) for p in architecture.parameters},
        "buffers": {b.name: normal(trials, *b.shape, seed=next(seeds)).abs() for b in architecture.buffers},
        "scales": {
            name: normal(trials, BATCH, units, seed=next(seeds)) for name, (_, units) in architecture.dropout.items()
        },
    }
    return Pass(trials, **given | options)


def apart(x, trials):
    return x.unflatten(1, (trials, -1)).transpose(0, 1)


def check(layer, shape, trials, expected, **options):
    """What a layer makes of images at random, against a function of one trial's images and its number."""
    stack = stack_of(layer, shape, trials, **options)
    images_TBCHW = normal(trials, BATCH, *shape)
    before = images_TBCHW.clone()
    made = forward(layer, side_by_side(images_TBCHW), stack)
    made = apart(made, trials) if made.dim() == 4 else made
    assert torch.equal(images_TBCHW, before)
    assert made.shape == (trials, BATCH, *layer.output(shape))
    for t in range(trials):
        torch.testing.assert_close(made[t], expected(images_TBCHW[t], t, stack), rtol=1e-10, atol=1e-12)


@at_random
@given(
    SHAPES, TRIALS, st.builds(Convolution, st.just("conv"), *[st.integers(1, 4)] * 3, st.integers(0, 3), st.booleans())
)
def test_convolutions(shape, trials, layer):
    assume(min(shape[1:]) + 2 * layer.padding >= layer.size)

    def expected(images, t, stack):
        bias = stack.weights["conv.bias"][t] if layer.has_bias else None
        return F.conv2d(images, stack.weights["conv.weight"][t], bias, layer.stride, layer.padding)

    for convolve in (grouped, unfolded, *([of_one_trial] if trials == 1 else [])):
        check(layer, shape, trials, expected, convolve=convolve)


@at_random
@given(SHAPES, TRIALS, st.integers(1, 4), st.integers(1, 4) | st.none(), st.integers(0, 2), st.booleans())
def test_max_pools(shape, trials, size, stride, padding, ceil):
    assume(padding <= size // 2 and min(shape[1:]) + 2 * padding >= size)
    layer = MaxPool(size, stride, padding, ceil)
    check(layer, shape, trials, lambda x, *_: F.max_pool2d(x, size, stride, padding, ceil_mode=ceil))


@at_random
@given(SHAPES, TRIALS, st.integers(1, 4), st.integers(1, 4) | st.none())
def test_average_pools(shape, trials, size, stride):
    assume(min(shape[1:]) >= size)
    check(AveragePool(size, stride), shape, trials, lambda x, *_: F.avg_pool2d(x, size, stride))


@at_random
@given(SHAPES, TRIALS, st.integers(0, 5), st.integers(1, 4))
def test_shortcuts(shape, trials, more, stride):
    def expected(images, *_):
        made = images[:, :, ::stride, ::stride]
        return torch.cat([made, torch.zeros(BATCH, more, *made.shape[2:], dtype=made.dtype)], dim=1)

    check(Shortcut(shape[0] + more, stride), shape, trials, expected)


@at_random
@given(SHAPES, TRIALS)
def test_layers_from_images_to_features(shape, trials):
    check(GlobalPool(), shape, trials, lambda x, *_: F.adaptive_avg_pool2d(x, 1).flatten(1))
    check(Flatten(), shape, trials, lambda x, *_: x.flatten(1))


@at_random
@given(SHAPES, TRIALS)
def test_dropouts(shape, trials):
    check(Dropout("all"), shape, trials, lambda x, t, stack: x * stack.scales["all"][t].view_as(x))
    check(Dropout2d("some"), shape, trials, lambda x, t, stack: x * stack.scales["some"][t][..., None, None])
    for layer in (Dropout("none"), Dropout2d("none")):
        check(layer, shape, trials, lambda x, *_: x, scales={})


@at_random
@given(SHAPES, TRIALS, st.floats(0.01, 1), st.booleans())
def test_batch_norms(shape, trials, momentum, training):
    layer, fresh = BatchNorm("norm", momentum), stack_of(BatchNorm("norm"), shape, trials)
    averages = {name: value.clone() for name, value in fresh.buffers.items()}

    def expected(images, t, stack):
        mean, var = (averages[f"norm.running_{name}"][t] for name in ("mean", "var"))
        weight, bias = (stack.weights[f"norm.{name}"][t] for name in ("weight", "bias"))
        return F.batch_norm(images, mean, var, weight, bias, training, momentum)

    check(layer, shape, trials, expected, training=training, buffers=fresh.buffers)
    for name, value in fresh.buffers.items():
        torch.testing.assert_close(value, averages[name], rtol=1e-10, atol=1e-12)


@at_random
@given(SHAPES, TRIALS)
def test_branches(shape, trials):
    pool = MaxPool(1)
    check(Sum(pool, Sequence(), pool), shape, trials, lambda x, *_: 3 * x)
    check(Concatenation(pool, Sequence()), shape, trials, lambda x, *_: torch.cat([x, x], dim=1))


@pytest.mark.parametrize(
    "layer",
    [
        Activation(),
        Sequence(Activation()),
        Sum(Activation(), Sequence()),
        Sequence(Dropout("off"), Activation()),
        Sequence(Sequence(), Activation()),
        Concatenation(Sequence(Activation()), Sequence()),
    ],
    ids=str,
)
def test_an_activation_overwrites_nothing_that_is_still_needed(layer):
    expected = {
        Sum: lambda x: x.relu() + x,
        Concatenation: lambda x: torch.cat([x.relu(), x], dim=1),
    }.get(type(layer), torch.relu)
    check(layer, (2, 3, 4), 2, lambda x, *_: expected(x), scales={})


def test_windows_that_do_not_fit_are_refused():
    for layer in (Convolution("conv", 1, 5, padding=1), MaxPool(5, padding=1), AveragePool(3)):
        with pytest.raises(UserError, match=r"images of 2 × 9 are too small for a window of \d × \d"):
            layer.output((1, 2, 9))


def test_what_does_not_fit_together_is_refused():
    for branches in (Sum, Concatenation):
        with pytest.raises(ValueError):
            branches(MaxPool(2), Sequence()).output((1, 8, 8))


def test_depths_that_make_no_blocks_are_refused():
    assert [blocks_per_stage(depth) for depth in (10, 16, 40, 100)] == [1, 2, 6, 16]
    for depth in (-2, 4, 15, 20):
        with pytest.raises(UserError, match=rf"depth must be 6 n \+ 4, .* not {depth}"):
            blocks_per_stage(depth)


def test_names_are_distinct():
    with pytest.raises(ValueError, match=r"^layers of the same name: conv$"):
        Architecture(
            Sequence(Convolution("conv", 1, 1), Sequence(Convolution("conv", 1, 1)), Dropout("off")), (1, 2, 2)
        )


def test_a_layer_without_a_forward_pass_says_so():
    class Other(Layer):
        pass

    with pytest.raises(TypeError, match="Other"):
        forward(Other(), torch.zeros(1), stack_of(Flatten(), (1, 1, 1), 1))


@at_random
@given(st.integers(1, 2**24), st.floats(0.01, 10))
def test_initial_weights_stay_within_their_bounds(n, scale):
    uniform = torch.tensor([0, (n - 1) * 2.0**-24, 1 - 2.0**-24])
    for initial, bound in ((Uniform(scale), scale), (TruncatedNormal(scale), 2 * scale)):
        low, some, high = initial.draw(uniform)
        assert -bound * 1.000001 <= low <= some <= high <= bound * 1.000001
        assert high == pytest.approx(bound, rel=1e-4)
        assert low == pytest.approx(-bound, rel=1e-4)
    assert (Constant(scale).draw(uniform) == torch.tensor(scale)).all()


@pytest.mark.parametrize("shape", [(300, 200), (64, 32, 5, 5), (96, 100, 1, 1)])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (he_normal, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")),
        (glorot_normal, nn.init.xavier_normal_),
        (glorot_uniform, nn.init.xavier_uniform_),
    ],
)
def test_initial_weights_by_shape_vary_as_those_of_torch(ours, theirs, shape):
    torch.manual_seed(0)
    drawn, expected = ours(shape).draw(torch.rand(shape)), theirs(torch.empty(shape))
    assert drawn.dtype == torch.float32
    assert float(drawn.std()) == pytest.approx(float(expected.std()), rel=0.03)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.03 * float(expected.std()))


def test_normal_weights_are_normal():
    drawn = Normal(0.5).draw(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert kstest(drawn, norm(scale=0.5).cdf).pvalue > 0.01
    low, middle, high = Normal(0.5).draw(torch.tensor([0, 0.5, 1 - 2.0**-24]))
    assert -low == high == pytest.approx(0.5 * norm.isf(2.0**-25), rel=1e-5) and abs(middle) < 1e-7

"""Networks from elsewhere: what a sweep file may set, what trains, as a plain loop would, and what is refused."""

import json
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from optbench import networks
from optbench.errors import UserError
from optbench.networks import foreign
from optbench.networks.network import Network
from optbench.sweep.document import SweepError
from optbench.sweep.spec import parse, to_yaml
from optbench.sweep.stacks import Stack
from optbench.sweep.trials import expand
from optbench.training import autotune, check_model
from optbench.training.engine import Training, train

NETS = """
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    '''Convolutions, pooling and dropout of channels and of units, one of its layers called twice.'''
    def __init__(self, num_classes, in_channels, width=4, hidden=[6], p: float = 0.25, act="relu"):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride=2)
        self.conv2 = nn.Conv2d(width, width, 3)
        self.drop2d = nn.Dropout2d(p)
        self.drop = nn.Dropout(0.5)
        sizes = [width * 25, *hidden]
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in zip(sizes, sizes[1:]))
        self.last = nn.Linear(sizes[-1], num_classes)
        self.act = getattr(F, act)
    def forward(self, x):
        x = self.drop2d(F.max_pool2d(self.act(self.conv2(self.act(self.conv1(x)))), 2)).flatten(1)
        for layer in self.hidden:
            x = self.drop(self.act(layer(self.drop(x))))
        return self.last(x)

class Normed(nn.Module):
    '''Buffers of every kind: running averages, a counter, a mask, one that the seed draws, one that is set anew.'''
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, stride=3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, 10)
        self.register_buffer("mask", torch.tensor([True, True, False, True]))
        self.register_buffer("noise", torch.randn(width) + float(np.random.rand()))
        self.register_buffer("mean", torch.zeros(width), persistent=False)
        self.scale = nn.Parameter(torch.ones(width), requires_grad=False)
    def forward(self, x):
        x = self.norm(self.conv(x)).relu().mean((2, 3)) * self.scale
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return self.linear((x - self.mean) * self.mask + self.noise)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(784, 10)
        self.inner = nn.Linear(10, 10)
        self.again = self.inner
    def forward(self, x):
        return self.again(torch.tanh(self.inner(self.first(x.flatten(1)))))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(28, 6)
        self.drop = nn.Dropout(0.3)
        self.last = nn.Linear(6, 10)
    def forward(self, x):
        states, _ = self.rnn(x.squeeze(1).transpose(0, 1))  # steps first: the batch is the second dimension
        return self.last(self.drop(states)[-1])

class Views(nn.Module):
    '''A view fails in channels-last memory, so that it has to be computed in the usual one.'''
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 5, stride=4)
        self.last = nn.Linear(108, 10)
    def forward(self, x):
        x = self.conv(x).relu()
        return self.last(x.view(len(x), -1))

def made(depth: int = 1):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 8), *[nn.Tanh() for _ in range(depth)], nn.Linear(8, 10))
"""
NAMES = ["Net", "Normed", "Tied", "Recurrent", "Views", "made"]
UNVECTORISED = ("Recurrent", "vmapped")  # torch has no batching rule for an LSTM's weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nets")
    (folder / "nets.py").write_text(NETS)
    return folder


@pytest.fixture
def network_of(folder):
    def make(name, **about):
        arguments = about.pop("arguments", {})
        return Network(networks.model(f"./nets.py:{name}", arguments, folder), **about)

    return make


def trials_of(folder, *lines):
    return expand(parse("\n".join(["dataset: digits", "epochs: 1", *lines]), folder=folder))


def models(folder, entry, *lines):
    trials = trials_of(folder, f"parameters: {{model: {entry}}}", *lines, "optimizers: {sgd: }")
    return list(dict.fromkeys(trial.model for trial in trials))


def problem(folder, entry):
    with pytest.raises(SweepError) as error:
        trials_of(folder, f"parameters: {{batch_size: 32, model: {entry}}}", "optimizers: {sgd: }")
    return str(error.value)


# ---------------------------------------------------------------- names and arguments


def test_a_sweep_gives_arguments_and_a_list_is_an_axis(folder):
    entry = "[{name: './nets.py:Net', width: [4, 8], hidden: [6, 5], p: 0.5}, softmax, './nets.py:Net']"
    assert models(folder, entry) == [
        "./nets.py:Net(width=4, hidden=[6, 5], p=0.5)".replace("width=4, ", ""),
        "./nets.py:Net(width=8, hidden=[6, 5], p=0.5)",
        "softmax",
        "./nets.py:Net",
    ]
    assert models(folder, "{name: './nets.py:Net', hidden: [[6], [5, 4]]}")[1] == "./nets.py:Net(hidden=[5, 4])"
    assert models(folder, "{name: './nets.py:made', depth: 2}") == ["./nets.py:made(depth=2)"]


def test_a_number_is_the_same_however_it_is_written(folder):
    assert models(folder, "{name: './nets.py:Net', width: 8.0}") == models(folder, "{name: './nets.py:Net', width: 8}")
    (model,) = models(folder, "{name: './nets.py:Net', p: 0.123456789}")
    assert model == "./nets.py:Net(p=0.123456789)"


def test_the_sweep_as_written_again_is_the_same(folder):
    text = "dataset: digits\nepochs: 1\noptimizers: {sgd: {model: [{name: './nets.py:Net', hidden: [[6, 5], []]}]}}"
    text = text.replace(", []", "")
    sweep = parse(text, folder=folder)
    again = parse(to_yaml(sweep), folder=folder)
    assert [trial.trial_id for trial in expand(again)] == [trial.trial_id for trial in expand(sweep)]


def test_an_exclusion_names_it_with_and_without_arguments(folder):
    entry = "parameters: {model: [{name: './nets.py:Net', width: [2, 3]}, softmax], batch_size: [32, 64]}"
    trials = trials_of(
        folder,
        entry,
        "optimizers: {sgd: }",
        "exclude: [{model: './nets.py:Net', batch_size: 32}, {model: [{name: './nets.py:Net', width: 3}]}]",
    )
    found = {(trial.model, trial.batch_size) for trial in trials}
    assert found == {("./nets.py:Net(width=2)", 64), ("softmax", 32), ("softmax", 64)}


def test_classes_and_channels_are_those_of_the_data(folder, network_of):
    architecture = network_of("Net", image=(3, 28, 28), classes=7).architecture
    assert architecture.shapes["conv1.weight"] == (4, 3, 3, 3) and architecture.shapes["last.bias"] == (7,)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("./nets.py", "3:37: ./nets.py: say which class of the file, './nets.py:MyNet'"),
        ("'./nets.py:Nat'", "3:37: ./nets.py has no 'Nat'; did you mean 'Net'?"),
        ("'./nots.py:Net'", "nots.py: no such file"),
        ("'torch.nn:Parameter'", "torch.nn:Parameter is a class derived from Tensor, not a torch.nn.Module"),
        ("{name: './nets.py:Net', widht: 8}", "3:61: unknown key 'widht'; did you mean 'width'?"),
        ("{name: './nets.py:Net', width: wide}", "3:68: must be a whole number, not the text 'wide'"),
        ("{name: './nets.py:Net', width: -1}", "3:37: ./nets.py:Net cannot be made: RuntimeError: "),
        ("[softmax, {name: './nets.py:Net', width: -1}]", "3:47: ./nets.py:Net cannot be made: "),
        ("'torch.nn:Linear'", "3:37: missing key 'in_features'"),
        ("'torch.nn:Flatten'", "torch.nn:Flatten has no parameters to train"),
    ],
)
def test_what_is_wrong_with_an_entry_has_its_line_and_column(folder, entry, words):
    assert words in problem(folder, entry)


BROKEN = """
import torch
from torch import nn
from torch.nn import functional as F
class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
        self.calls, self.kept = 0, []
        self.register_buffer("seen", torch.zeros(3))
class Functional(Base):
    def forward(self, x): return self.linear(F.dropout(x.flatten(1), 0.5, self.training))
class Noisy(Base):
    def forward(self, x): return self.linear(x.flatten(1) + torch.rand(784))
class Counts(Base):
    def forward(self, x):
        self.calls += 1
        return self.linear(x.flatten(1))
class Keeps(Base):
    def forward(self, x):
        self.kept.append(x)
        return self.linear(x.flatten(1))
class Clamps(Base):
    def forward(self, x):
        self.linear.weight.data.clamp_(-0.01, 0.01)
        return self.linear(x.flatten(1))
class Grows(Base):
    def forward(self, x):
        self.seen = torch.cat([self.seen, x.mean().view(1)])
        return self.linear(x.flatten(1))
class Labels(Base):
    def forward(self, x, labels): return self.linear(x.flatten(1))
class Pair(Base):
    def forward(self, x): return self.linear(x.flatten(1)), x
class Wide(Base):
    def forward(self, x): return self.linear(x.flatten(1)).repeat(1, 3)
class Constant(Base):
    def forward(self, x): return torch.zeros(len(x), 10)
class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(10)
    def forward(self, x): return self.linear(x.flatten(1))
class Complex(Base):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
class Alpha(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.AlphaDropout(0.1)
    def forward(self, x): return self.linear(self.drop(x.flatten(1)))
class Everything(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(1.0)
    def forward(self, x): return self.linear(self.drop(x.flatten(1)))
class Named(Base):
    def __init__(self, name): super().__init__()
class Raises(nn.Module):
    def __init__(self): raise ValueError("not today")
def nothing(): return 3
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Functional", "its forward draws random numbers, which would not be the trial's own: use nn.Dropout"),
        ("Noisy", "its forward draws random numbers"),
        ("Alpha", "its forward draws random numbers"),
        ("Counts", "its forward changes 'calls', which trials would share; what it keeps must be a buffer"),
        ("Keeps", "its forward changes 'kept'"),
        ("Clamps", "its forward changes the parameter 'linear.weight', which only the optimizer may do"),
        ("Grows", "its forward changes the shape of the buffer 'seen'"),
        ("Labels", "given images (B, C, H, W), its forward raises TypeError: "),
        ("Pair", "its forward returns a tuple, not logits (B, 10)"),
        ("Wide", "cannot train on images of 1 × 28 × 28: its forward returns (B, 30), not logits (B, 10)"),
        ("Constant", "its logits do not depend on its parameters"),
        ("Lazy", "'linear.weight' is lazy; make its layer with all its sizes"),
        ("Complex", "'w' is complex; only real tensors can be trained here"),
        ("Everything", "'drop' drops everything, its p is 1"),
        ("Named", "needs 'name', which has another meaning in a sweep file"),
        ("Raises", "cannot be made: ValueError: not today"),
        ("nothing", "makes a int, not a torch.nn.Module"),
    ],
)
def test_what_cannot_train_is_refused_in_a_line(tmp_path, name, words):
    (tmp_path / "broken.py").write_text(BROKEN)
    message = problem(tmp_path, f"'./broken.py:{name}'")
    assert message.startswith("sweep:3:37: ./broken.py:") and words in message and "\n" not in message


# ---------------------------------------------------------------- ids


def test_changed_code_is_another_network_and_is_noticed_while_a_sweep_runs(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    lines = ("parameters: {model: './nets.py:made'}", "optimizers: {sgd: }")
    (trial,) = trials_of(tmp_path, *lines)
    sent = pickle.dumps(trial)
    assert pickle.loads(sent) == trial and pickle.loads(sent).trial_id == trial.trial_id
    (tmp_path / "nets.py").write_text(NETS + "\n# changed\n")
    foreign.find.cache_clear()  # as in a process that starts now
    with pytest.raises(UserError, match=r"the code of ./nets.py:made was changed while the sweep ran; run again"):
        pickle.loads(sent)
    (other,) = trials_of(tmp_path, *lines)
    assert other.model == trial.model and other.trial_id != trial.trial_id


@pytest.mark.parametrize("axis", ["dropout: [0, 0.25]", "activation: [relu, tanh]"])
def test_twins_are_not_trained(folder, axis):
    lines = (f"parameters: {{model: [softmax, './nets.py:made'], {axis}}}", "optimizers: {sgd: }")
    name = axis.partition(":")[0]
    with pytest.raises(SweepError, match=rf"sgd: ./nets.py:made has its own {name}, and would be trained again"):
        trials_of(folder, *lines)
    value = {"dropout": "0.25", "activation": "tanh"}[name]
    assert len(trials_of(folder, *lines, f"exclude: [{{model: './nets.py:made', {name}: {value}}}]")) == 3


# ---------------------------------------------------------------- against plain modules


def batch_of(seeds, batch, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(seeds, batch, 1, 28, 28, generator=generator, dtype=dtype)
    return images, torch.randint(10, (seeds, batch), generator=generator)


def scales_of(network, trials, batch, dtype=torch.float64):
    units = sum(units for _, units in network.architecture.dropout.values())
    if not units:
        return None
    return (torch.rand(trials, batch, units, generator=torch.Generator().manual_seed(2), dtype=dtype) > 0.4) / 0.6


class Masked(nn.Module):
    """Multiplies with given masks in turn, which is all that dropout is to the gradient."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def forward(self, x):
        return x * next(self.masks) if self.training else x


def plain_steps(network, seed, images_BCHW, labels_B, scale_BU, steps):
    """Loss, gradient and buffers of a plain module, and its logits in evaluation."""
    architecture = network.architecture
    module = architecture.build(seed).double()
    units = [place.units for place in architecture.places]
    for _ in range(steps):
        masks = () if scale_BU is None else scale_BU.split(units, dim=1)
        turns = iter([place.mask(mask) for place, mask in zip(architecture.places, masks, strict=True)])
        for name, layer in list(module.named_modules()):
            if isinstance(layer, nn.Dropout | nn.Dropout2d | Masked):
                setattr(module, name, Masked(turns))
        module.zero_grad()
        loss = F.cross_entropy(module(images_BCHW), labels_B)
        loss.backward()
    gradient_P = torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad])
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    return loss.detach(), gradient_P, tensors, module.eval()(images_BCHW).detach()


@pytest.mark.parametrize(
    ("name", "way"), [(name, way) for name in NAMES for way in ("loop", "vmapped") if (name, way) != UNVECTORISED]
)
def test_loss_gradients_buffers_and_evaluation_are_those_of_the_module(name, way, network_of):
    network = network_of(name, arguments={"hidden": (6, 5)} if name == "Net" else {}, convolution=way)
    images_SBCHW, labels_SB = batch_of(2, 8)
    seeds, seed_of_T = [5, 6, 5], torch.tensor([0, 1, 1])
    parameters_TP = network.initialize(seeds, "cpu", torch.float64)
    buffers_TQ = network.buffers(seeds, "cpu", torch.float64)
    scale_TBU = scales_of(network, 3, 8)
    for _ in range(2):
        loss_T, gradients_TP = network.loss_and_gradients(
            parameters_TP, images_SBCHW, labels_SB, seed_of_T, scale_TBU, buffers_TQ
        )
    before_TQ = buffers_TQ.clone()
    with torch.inference_mode():
        logits_TBK = network.forward(
            network.weights(parameters_TP), images_SBCHW, seed_of_T, training=False, buffers_TQ=buffers_TQ
        )
    assert torch.equal(buffers_TQ, before_TQ)
    for t, seen in enumerate(seed_of_T.tolist()):
        scale_BU = None if scale_TBU is None else scale_TBU[t]
        loss, gradient_P, tensors, logits_BK = plain_steps(
            network, seeds[t], images_SBCHW[seen], labels_SB[seen], scale_BU, 2
        )
        torch.testing.assert_close(loss_T[t], loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(gradients_TP[t], gradient_P, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(logits_TBK[t], logits_BK, rtol=1e-9, atol=1e-12)
        expected = [tensors[own].double().flatten() for own in network.architecture.buffer_shapes]
        torch.testing.assert_close(
            buffers_TQ[t], torch.cat([*expected, torch.empty(0, dtype=torch.float64)]), rtol=1e-6, atol=1e-9
        )


def test_dropout_layers_are_found_call_by_call(network_of):
    architecture = network_of("Net", arguments={"hidden": (6, 5)}).architecture
    assert architecture.dropout == {
        "drop2d": (0, 4),
        "drop": (1, 100),
        "drop (2)": (2, 6),
        "drop (3)": (3, 6),
        "drop (4)": (4, 5),
    }
    assert architecture.rates((0.0, 0.9)) == [0.25, 0.5, 0.5, 0.5, 0.5]
    (place,) = network_of("Recurrent").architecture.places
    assert (place.shape, place.axis) == ((28, 1, 6), 1)
    mask = place.mask(torch.arange(3 * 168).view(3, 168))
    assert mask.shape == (28, 3, 6) and torch.equal(mask[:, 1].flatten(), torch.arange(168, 336))


def test_memory_format_is_chosen_by_what_the_module_can_do(network_of):
    assert network_of("Net").architecture.is_channels_last
    assert not network_of("Views").architecture.is_channels_last
    assert not network_of("made").architecture.is_channels_last


def test_the_seed_alone_decides_initial_weights_and_buffers(network_of):
    network = network_of("Normed")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    weights, buffers = network.initialize([3, 4], "cpu"), network.buffers([3, 4], "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network.initialize([4], "cpu")[0], weights[1]) and not torch.equal(weights[0], weights[1])
    assert torch.equal(network.buffers([4], "cpu")[0], buffers[1]) and not torch.equal(buffers[0], buffers[1])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_trial_is_bitwise_the_same_in_any_stack_beside_nan(name, precision, network_of):
    network = network_of(name, precision=precision)
    images_SBCHW, labels_SB = batch_of(1, 7, torch.float32)
    seeds, same_T = list(range(5)), torch.zeros(5, dtype=torch.int64)
    scale_TBU = scales_of(network, 5, 7, torch.float32)

    def part(rows, spoilt=None):
        parameters_TP, buffers_TQ = network.initialize(seeds, "cpu")[rows], network.buffers(seeds, "cpu")[rows]
        if spoilt is not None:
            parameters_TP[spoilt] = float("nan")
        scale = None if scale_TBU is None else scale_TBU[rows]
        found = network.loss_and_gradients(parameters_TP, images_SBCHW, labels_SB, same_T[rows], scale, buffers_TQ)
        logits_TBK = network.forward(
            network.weights(parameters_TP), images_SBCHW, same_T[rows], training=False, buffers_TQ=buffers_TQ
        )
        return *found, buffers_TQ, logits_TBK

    together = part(slice(0, 5), spoilt=2)
    assert not together[0][2].isfinite() and together[0].dtype == torch.float32
    for first, last in ((0, 1), (1, 2), (0, 2), (3, 5), (4, 5)):
        for alone, all_ in zip(part(slice(first, last)), together, strict=True):
            assert torch.equal(alone, all_[first:last])


def test_bf16_rounds_and_no_more(network_of):
    images_SBCHW, labels_SB = batch_of(1, 16, torch.float32)
    parameters_TP, same_T = network_of("Net").initialize([0], "cpu"), torch.zeros(1, dtype=torch.int64)
    fp32, bf16 = (
        network_of("Net", precision=precision).loss_and_gradients(parameters_TP, images_SBCHW, labels_SB, same_T)[1]
        for precision in ("fp32", "bf16")
    )
    assert bf16.dtype == torch.float32
    assert 1e-4 < torch.linalg.norm(bf16 - fp32) / torch.linalg.norm(fp32) < 0.1


def test_operations_and_memory_are_those_of_the_layers(network_of):
    own = network_of("made").architecture
    assert own.step_operations == 2 * (3 * (784 * 8 + 80) - 784 * 8)
    assert own.activation_bytes / 2 == pytest.approx(4 * (784 + 8), rel=0.1)


# ---------------------------------------------------------------- trained


def test_a_whole_training_is_that_of_a_plain_loop(folder, tiny):
    """Batch norm and SGD with momentum, in float64, beside a neighbour with another rate."""
    trials = trials_of(
        folder,
        "parameters: {model: './nets.py:Normed', batch_size: 32}",
        "optimizers: {sgd: {lr: [0.1, 1e30], momentum: 0.9}}",
    )
    training = Training(Stack(tuple(trials)), tiny, "cpu", torch.float64)
    losses = [training.step()[0].item() for _ in range(8)]
    architecture = training.network.architecture
    module = architecture.build(trials[0].seed).double()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    from optbench.machine.randomness import permutation

    order_N = permutation([trials[0].seed], 1, len(tiny.train.labels), "cpu")[0]
    for loss, batch_B in zip(losses, order_N.split(32), strict=True):
        optimizer.zero_grad()
        ours = F.cross_entropy(
            module(tiny.normalise(tiny.train.images[batch_B], torch.float64)), tiny.train.labels[batch_B]
        )
        ours.backward()
        optimizer.step()
        assert loss == pytest.approx(ours.item(), rel=1e-6)


def test_rows_of_a_trial_do_not_depend_on_its_neighbours(folder, tiny):
    trials = trials_of(
        folder,
        "seeds: 2",
        "parameters: {model: './nets.py:Net', batch_size: 32}",
        "optimizers: {adam: {lr: [0.001, 1e30]}, lbfgs: {max_iter: 2}}",
    )

    def rows(stack):
        *_, last = train(Stack(tuple(stack)), tiny, "cpu")
        return {row["trial_id"]: {k: v for k, v in row.items() if k != "train_seconds"} for row in last}

    together = rows(trials)
    assert {row["status"] for row in together.values()} <= {"finished", "diverged"}
    assert {row["convolution"] for row in together.values()} == {"loop"}
    for trial in trials:
        alone = rows([trial])[trial.trial_id]
        if alone["status"] == "finished":
            assert alone == together[trial.trial_id]


def test_a_training_goes_on_from_its_state(folder, tiny):
    trials = trials_of(folder, "parameters: {model: './nets.py:Normed'}", "optimizers: {adam: }")
    one, other = (Training(Stack(tuple(trials)), tiny, "cpu") for _ in range(2))
    one.step()
    other.load_state_dict(one.state_dict())
    for training in (one, other):
        training.step()
    assert torch.equal(one.parameters_TP, other.parameters_TP) and torch.equal(one.buffers_TQ, other.buffers_TQ)


def test_the_outline_says_which_code_it_was(folder, tmp_path):
    from optbench.results.store import Store
    from optbench.runs.job import Job

    sweep = parse(
        "dataset: digits\nepochs: 1\nparameters: {model: './nets.py:made'}\noptimizers: {sgd: }", folder=folder
    )
    outline = Job(sweep, Store(tmp_path / "results"), device="cpu").outline()
    assert outline.digests == {"./nets.py:made": foreign.source("./nets.py:made", folder.resolve())}
    assert outline.networks == {"./nets.py:made": 784 * 8 + 8 + 90}
    assert json.dumps(outline.digests)


# ---------------------------------------------------------------- checked


@pytest.fixture
def few_steps(monkeypatch):
    for name, value in {"STEPS": 6, "_FEWEST_STEPS": 6, "_TOGETHER_STEPS": 3, "TIMED_STEPS": 1}.items():
        monkeypatch.setattr(check_model, name, value)


def findings_of(name, folder, *settings):
    found, findings = check_model.findings_about(f"./nets.py:{name}", settings, "digits", folder)
    return found, {finding.check: finding for finding in findings}


def test_a_check_says_what_a_network_is_and_that_it_works(folder, few_steps):
    name, found = findings_of("Normed", folder)
    assert name == "./nets.py:Normed"
    assert list(found) == ["network", "steps", "deterministic", "stack", "vmapped", "graph", "cost"]
    assert found["network"].seen == "94 parameters in 3 layers, 7 buffers"
    assert all(finding.ok for finding in found.values()) and not found["vmapped"].but and not found["graph"].but
    assert "GFLOP; a plain loop takes" in found["cost"].seen
    name, found = findings_of("Net", folder, "width=2")
    assert name == "./nets.py:Net(width=2)"
    assert "dropout at drop2d p=0.25 (2 units), drop p=0.5 (50 units)" in found["network"].seen


def test_what_cannot_be_vectorised_works_with_a_reservation(folder, few_steps):
    _, found = findings_of("Recurrent", folder)
    assert found["vmapped"].ok and found["vmapped"].but == "a GPU can run it only trial by trial"
    assert found["stack"].ok and found["deterministic"].ok


UNSTEADY = """
import torch
from torch import nn
class Shared(nn.Module):
    '''Keeps what it has seen where no trial is told from another.'''
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
    def forward(self, x):
        SEEN.append(float(x.sum()))
        return self.linear(x.flatten(1)) * (1 + 0.1 * (len(SEEN) % 5))
class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
    def forward(self, x):
        x = self.linear(x.flatten(1))
        return x if x.mean() > 0 else x * 2
class Stuck(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(784, 10)
    def forward(self, x):
        return self.linear(x.flatten(1)) * 0
SEEN = []
"""


@pytest.mark.parametrize(("name", "wrong"), [("Shared", ["deterministic", "stack"]), ("Stuck", ["steps"])])
def test_a_check_finds_what_does_not_work(tmp_path, few_steps, name, wrong):
    (tmp_path / "nets.py").write_text(UNSTEADY)
    _, found = findings_of(name, tmp_path)
    assert [check for check, finding in found.items() if not finding.ok] == wrong


def test_control_flow_that_depends_on_the_data_works_with_reservations(tmp_path, few_steps):
    (tmp_path / "nets.py").write_text(UNSTEADY)
    _, found = findings_of("Branches", tmp_path)
    assert all(finding.ok for finding in found.values())
    assert found["graph"].but == "a GPU cannot record its steps and launches them one by one"
    assert found["vmapped"].but == "a GPU can run it only trial by trial"


def test_a_network_of_layers_is_checked_alike(folder, few_steps):
    _, findings = check_model.findings_about("softmax", [], "digits", folder)
    assert [finding.check for finding in findings] == ["network", "steps", "deterministic", "stack", "cost"]
    assert all(finding.ok for finding in findings)


def test_candidates_are_measured_as_for_convolutions(network_of):
    for way in ("loop", "vmapped"):
        probe = autotune._probe(network_of("Normed", convolution=way), 3, 8, "cpu")
        assert probe.error < 1e-4 and not probe.unfit
    assert network_of("Normed").ways == ("loop", "vmapped")

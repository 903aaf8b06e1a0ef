"""What is known about the optimizers of the package pytorch_optimizer on these networks; tested with version 4.1.0.

Names that do not appear here take lr and, like all others, the arguments of their signature.
"""

from __future__ import annotations

NAME = "pytorch_optimizer"

# These work, and need nothing but lr unless WITH says so.
TESTED = """
    accsgd adabelief adabound adadelta adafactor adagc adago adai adalite adam adamax adamc adamg adamod adamp
    adams adamuon adamw adamwsn adan adanorm adapnm adashift adasmooth adatam ademamix adopt aggmo aida alice amos
    ano apollo apollodqn avagrad bcos came conda dadaptadagrad dadaptadam dadaptadan dadaptlion dadaptsgd dash
    diffgrad dualadam emofact emolynx emonavi exadam fadam fira flashadamw focus fromage ftrl galore grams gravity
    grokfastadamw kate kron lamb laprop lars lbfgs lion madgrad mars msvag muon muonclip nadam nero normuon
    novograd padam pid pnm prodigy qhadam qhm racs radam ranger ranger21 rmsprop rose sara scalableshampoo
    schedulefreeadamw schedulefreeradam schedulefreesgd scion scionlight sgd sgdp sgdsai sgdw signsgd
    simplifiedademamix sm3 soap spam splus srmm stableadamw stablespam swats tam tiger vsgd yogi
""".split()  # noqa: SIM905

# Arguments without which an optimizer ignores lr, cannot be constructed, or takes seconds or gigabytes for a step.
WITH: dict[str, dict[str, object]] = {
    "adafactor": {"relative_step": False},
    "dash": {"block_size": 256},
    "kron": {"memory_save_mode": "all_diag"},
    "ranger21": {"num_iterations": 1000},  # as many as the training has steps
    "scalableshampoo": {"block_size": 128},
    "soap": {"max_precondition_dim": 1024},
    "splus": {"max_dim": 1024},
}

# Their parameters come in two groups: matrices, and the rest, which AdamW updates at its own rate.
MUON_GROUPS = frozenset({"adago", "adamuon", "muon", "muonclip", "normuon"})

# Why the others cannot train here.
UNSUITABLE = {
    "a2grad": "it has no learning rate",
    "adahessian": "it needs second derivatives",
    "adalomo": "it steps inside the backward pass",
    "adammini": "it takes the model, not its parameters",
    "alig": "it has no learning rate of its own but an upper bound of one",
    "asgd": "it overwrites the learning rate; optbench's own 'asgd' does not",
    "bsam": "it needs the size of the dataset, and did not learn at any setting that was tried",
    "demo": "it needs torch.distributed",
    "distributedmuon": "it needs torch.distributed",
    "lomo": "it steps inside the backward pass",
    "lorarite": "it is for pairs of LoRA matrices",
    "magma": "it wraps another optimizer",
    "shampoo": "a step takes 20 s for a layer with 4608 inputs; 'scalableshampoo' works in blocks",
    "sophiah": "it needs second derivatives",
    "spectralsphere": "it is only for matrices",
}

# Those that may not be used as freely as the package (Apache 2.0).
LICENCES = {"fromage": "CC BY-NC-SA 4.0, not for commercial use", "nero": "CC BY-NC-SA 4.0, not for commercial use"}


def advice(name: str) -> str:
    """The arguments that an optimizer needs here, as a sweep file writes them."""
    needed = WITH.get(name, {})
    return ", ".join(
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in needed.items()
    )

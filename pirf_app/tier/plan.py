"""How the minutes of a tier are spent: sizes, floating-point operations and bytes of each stage, by measured rates."""

import time
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from math import isqrt

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..common.checks import MAX_RESOLUTION, InputError, check_number, check_whole
from ..common.memory import synchronise
from ..common.parallel import alone_on
from ..diffusion.denoiser import Denoiser
from ..diffusion.network import COARSEST, NetworkConfig
from ..diffusion.prior import PriorConfig
from ..pdes import PDE, get_pde
from ..training.pretraining import PretrainConfig, Pretraining, bases, network_for
from .data import PART

LIMIT = 9_900_000  # bytes of a bundled checkpoint, its metadata left out
SHARES = {"data": 0.25, "pretrain": 0.5, "tune": 0.2, "evaluate": 0.05}  # of the minutes
SPARE = 0.9  # of a share is planned for: starting, compiling and saving take the rest
MAX_DATA = 4 * 2**30  # bytes
MAX_POOL, MAX_UPDATES = 2048, 10_000  # the pool is written with every save of a tuning run: 0.8 GB at 128x128
MULTIPLIERS = (1, 2, 3, 4)  # of the four coarsest levels; levels above them have 1
ATTENTION = 16
MAX_WORKERS = 256
WIDTHS = range(8, 129, 4)  # base channels
ASSUMED_FLOPS = 40e12  # a second, of a data-centre GPU in bfloat16 on small convolutions: a guess, and named as one
POOL_STEPS = 10
EVALUATED_STEPS = (10, 20)


def widest_network(pde: PDE, resolution: int, box: int, limit: int) -> NetworkConfig:
    """The widest network of the tier's form whose checkpoint stays under `limit` bytes. Raises InputError."""
    levels = 1
    while resolution % 2**levels == 0 and resolution >> levels >= max(COARSEST, 8):
        levels += 1
    multipliers = (1,) * (levels - len(MULTIPLIERS)) + MULTIPLIERS[:levels]
    size = {"resolution": resolution, "multipliers": multipliers, "attention": (ATTENTION,)}
    of_width = lambda width: network_for(pde, base_channels=width, **size)  # noqa: E731
    prior = PriorConfig(box, bases(pde))
    fitting = bisect_right(WIDTHS, limit, key=lambda width: checkpoint_bytes(of_width(width), prior))
    if not fitting:
        raise InputError(f"no network for {pde.name} at {resolution}x{resolution} fits in {limit} bytes")
    return of_width(WIDTHS[fitting - 1]).check()


@lru_cache(maxsize=256)
def checkpoint_bytes(network: NetworkConfig, prior: PriorConfig) -> int:
    with torch.device("meta"):
        tensors = Denoiser(network, prior).state_dict()
    return sum(x.numel() * (2 if key.startswith("network.") else 4) for key, x in tensors.items())


@lru_cache(maxsize=64)
def parameters(network: NetworkConfig) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in Denoiser(network).network.parameters())


@lru_cache(maxsize=64)
def flops(network: NetworkConfig, trainable: str | None) -> float:
    """Of one evaluation of the network for one sample, with the backward pass into a suffix where one is trained."""
    with torch.device("meta"):
        model = Denoiser(network).network
        x, label = torch.empty(1, network.in_channels, *2 * [network.resolution]), torch.empty(1)
        model.freeze(trainable or "all")
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(trainable is not None):
            output = model(x, label)
            if trainable is not None:
                output.sum().backward()
    return float(counter.get_total_flops())


@dataclass(frozen=True)
class Rates:
    """Seconds for one part of data on one core and for one solve; operations a second of the network in training, and
    whether that was measured or assumed."""

    part: float
    solve: float
    flops: float
    measured: bool = True


def solver_rates(pde: PDE, resolution: int) -> tuple[float, float]:
    """Seconds that one core takes for `PART` fields and for one solve, from a few of them."""
    pde.generate(1, pde.min_resolution, 0)  # what is computed once only is not timed
    start = time.perf_counter()
    pde.generate(1, resolution, 1)
    first = time.perf_counter() - start
    fields = pde.generate(3, resolution, 2)
    more = max(0.0, time.perf_counter() - start - 2 * first) / 2
    start = time.perf_counter()
    pde.solve(fields)
    return first + (PART - 1) * more, (time.perf_counter() - start) / len(fields)


def training_flops(pde: PDE, network: NetworkConfig, batch: int, device: str, compiled: bool = False) -> float:
    """Operations a second of training, from a few updates on made-up fields."""
    updates, half = (8, 3) if torch.device(device).type == "cuda" else (3, 1)
    pool = torch.randn(batch, network.out_channels, *2 * [network.resolution]).to(device) / 2
    config = PretrainConfig(samples=updates * batch, batch=batch, prior_box=1, prior_samples=8)
    run = Pretraining(pde, network, config, alone_on(device), pool)
    if compiled:
        run.model.network.compile()
    for step in run.run():
        synchronise(device)
        if step.update == half:
            start = time.perf_counter()
    return (updates - half) * batch * flops(network, "all") / (time.perf_counter() - start)


@dataclass(frozen=True)
class Options:
    """What a tier is asked for: minutes from start to end; `workers` processes for the solver; at most `limit` bytes
    for a checkpoint. Raises InputError for a value out of range."""

    pde: str
    resolution: int
    minutes: float
    device: str
    workers: int
    seed: int = 0
    limit: int = LIMIT

    def __post_init__(self):
        check_number("minutes", self.minutes, 0.05, 10_000)
        check_whole("workers", self.workers, 1, MAX_WORKERS)
        check_whole("resolution", self.resolution, 16, MAX_RESOLUTION)
        get_pde(self.pde).check_request(1, self.resolution, self.seed)

    def seconds(self, stage: str) -> float:
        return 60 * self.minutes * SHARES[stage] * SPARE


@dataclass(frozen=True)
class Plan:
    """Sizes that fill the minutes: parts of data, samples seen in pre-training, trajectories and updates in tuning,
    samples a method and step count in evaluation, held-out parts to compare them with."""

    network: NetworkConfig
    prior_box: int
    parts: int
    reference_parts: int
    batch: int
    samples: int
    pool: int
    updates: int
    tuning_batch: int
    validation: int
    evaluated: int


def between(value: float, low: int, high: int) -> int:
    return int(max(low, min(high, value)))


def make_plan(pde: PDE, options: Options, rates: Rates) -> Plan:
    """Fills each stage's share of the minutes; what the data does not need is pre-training's."""
    o, channels = options, len(pde.channels)
    size = PART * channels * o.resolution**2 * 4
    allowed = o.seconds("data") * o.workers / rates.part
    reference = between(allowed / 16, 2, 16)
    parts = between(allowed - reference, 4, max(4, MAX_DATA // size))
    # Hints tell the network more than joint modes do, and are told mode by mode.
    most = 1 if pde.hint_channels else 16
    box = between(isqrt(parts * PART // (8 * channels)), 1, most)
    network = widest_network(pde, o.resolution, box, o.limit)
    spent = (parts + reference) * rates.part / o.workers
    left = o.seconds("pretrain") + max(0.0, o.seconds("data") - spent)
    cuda = torch.device(o.device).type == "cuda"
    batch = between(parts * PART // 8, 8, 128 if cuda else 16)
    samples = between(left * rates.flops / flops(network, "all"), 4 * batch, 50_000_000)
    validation = between(o.seconds("tune") / 40 / rates.solve, 4, 32)
    # A third of the rest for the pool, two thirds for the updates.
    seconds = max(0.1, o.seconds("tune") - 6 * validation * rates.solve)
    pool = between(seconds / 3 * rates.flops / (POOL_STEPS * flops(network, None)), 8, MAX_POOL)
    tuning_batch = between(pool // 4, 4, 32 if cuda else 16)
    updates = between(seconds * 2 / 3 * rates.flops / (tuning_batch * flops(network, "decoder")), 4, MAX_UPDATES)
    solves = 2 * len(EVALUATED_STEPS) + 1
    evaluated = between(o.seconds("evaluate") / solves / rates.solve, 4, 64)
    return Plan(
        network, box, parts, reference, batch, samples, pool, updates, tuning_batch, validation, evaluated
    )  # fmt: skip


def table(pde: PDE, options: Options, rates: Rates, plan: Plan) -> list[dict]:
    """Each stage: what it does, operations, bytes that it keeps, minutes."""
    o, channels = options, len(pde.channels)
    field = channels * o.resolution**2 * 4
    weights = checkpoint_bytes(plan.network, PriorConfig(plan.prior_box, bases(pde)))
    training, sampling = flops(plan.network, "all"), flops(plan.network, None)
    draws = 2 * len(EVALUATED_STEPS) * plan.evaluated
    solves = draws + plan.evaluated
    work = {
        "data": (f"{plan.parts * PART} fields, {plan.reference_parts * PART} held out, {o.workers} processes", 0.0),
        "pretrain": (f"{plan.samples} samples in batches of {plan.batch}", plan.samples * training),
        "tune": (
            f"{plan.pool} trajectories, {plan.updates} updates of {plan.tuning_batch}",
            (plan.pool + plan.validation) * POOL_STEPS * sampling
            + plan.updates * plan.tuning_batch * flops(plan.network, "decoder"),
        ),
        "evaluate": (f"{draws} samples at {' and '.join(map(str, EVALUATED_STEPS))} steps", 0.0),
    }
    work["evaluate"] = (work["evaluate"][0], 2 * plan.evaluated * sum(EVALUATED_STEPS) * sampling)
    solver = {"data": (plan.parts + plan.reference_parts) * rates.part / o.workers}
    solver |= {"tune": 6 * plan.validation * rates.solve, "evaluate": solves * rates.solve}
    states = 16 * parameters(plan.network)  # weights, their average and Adam's two moments in single precision
    kept = {"data": plan.parts * PART * field, "pretrain": states + weights}
    kept |= {"tune": 3 * (plan.pool + plan.validation) * field + states + weights, "evaluate": 100_000}
    return [
        {
            "stage": stage,
            "work": text,
            "flops": operations,
            "bytes": kept[stage],
            "minutes": (operations / rates.flops + solver.get(stage, 0.0)) / 60,
        }
        for stage, (text, operations) in work.items()
    ]

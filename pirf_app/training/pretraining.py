"""EDM pre-training (arXiv 2206.00364, section 5) on an endless stream of fresh solver data, as a resumable generator.

Every update draws its own data and noise from (seed, update), so a resumed run repeats the uninterrupted one.
"""

import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ..common.checks import InputError, check_number, check_seed, check_whole
from ..common.parallel import ALONE, Team
from ..common.streams import TRAINING_DATA, TRAINING_NOISE, derived_seed
from ..diffusion.denoiser import Denoiser, check_fits, native_bfloat16
from ..diffusion.network import NetworkConfig
from ..diffusion.prior import MAX_MODES, ModePrior, PriorConfig
from ..diffusion.sampler import Schedule
from ..models.checkpoint import CheckpointInfo, save_checkpoint
from ..pdes import PDE
from .optimisation import Optimisation, lay_out, scheduled
from .run_state import of_this_version

# The chunk of training data that the covariance is estimated from, and the pool of a PDE with a slow solver drawn;
# updates count from 0 and never get there.
PRIOR_CHUNK = 2**31
PART = 32  # fields that are drawn at once: a whole trajectory of Kolmogorov flow


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe. `samples` fixes the length of the cosine decay of the learning rate; noise levels are log-normal.

    `ema_samples` is the half-life of the weight average, shortened to a tenth of the samples seen early on;
    `prior_box` is that of the `ModePrior` (0: EDM's scalar variance), estimated from `prior_samples` fields;
    sigma_min, sigma_max, rho and the solver are what the checkpoint recommends for sampling. Raises InputError for a
    value out of range."""

    samples: int = 100_000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup_samples: int = 2_000
    noise_mean: float = -0.8
    noise_std: float = 1.6
    ema_samples: float = 3_000.0
    prior_box: int = 16
    prior_samples: int = 8_192
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    rho: float = 7.0
    solver: str = "multistep"
    seed: int = 0

    def __post_init__(self):
        check_whole("samples", self.samples, 1, 10**12)
        check_whole("batch", self.batch, 1, 2**16)
        check_whole("warmup_samples", self.warmup_samples, 1, 10**12)
        check_whole("prior_box", self.prior_box, 0, MAX_MODES)
        check_whole("prior_samples", self.prior_samples, 8, 2**20)
        check_number("learning_rate", self.learning_rate, 1e-8, 1)
        check_number("noise_mean", self.noise_mean, -10, 10)
        check_number("noise_std", self.noise_std, 0, 10)
        check_number("ema_samples", self.ema_samples, 1, 1e12)
        check_seed(self.seed)
        self.schedule()

    def schedule(self) -> Schedule:
        return Schedule(sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho, solver=self.solver)


@dataclass(frozen=True)
class PretrainStep:
    """One update: samples seen so far, mean loss (1 = no better than the linear denoiser), learning rate, seconds."""

    update: int
    samples: int
    loss: float
    learning_rate: float
    seconds: float


def training_data(pde: PDE, n: int, resolution: int, seed: int, chunk: int) -> Tensor:
    """Normalised fields `[n, c, N, N]` of chunk number `chunk` of training stream `seed`."""
    return pde.normalise(pde.generate(n, resolution, derived_seed(seed, TRAINING_DATA, chunk)))


def bases(pde: PDE) -> tuple[tuple[str, str], ...]:
    """The functions that suit the boundary conditions of each channel."""
    return tuple(channel.basis for channel in pde.channels)


def network_for(pde: PDE, prior: bool = True, **size) -> NetworkConfig:
    """The network of the given size that suits `pde`: its channels, padding, row waves and hints; with a `ModePrior`,
    or for EDM's scalar variance."""
    channels, hints = len(pde.channels), pde.hint_channels if prior else 0
    rows, columns = ("circular" if around else "zeros" for around in pde.periodic)
    seen = channels * (2 if prior else 1) + hints
    return NetworkConfig(
        in_channels=seen, out_channels=channels, padding=(rows, columns), row_waves=pde.row_waves, hints=hints, **size
    )


class Pretraining(Optimisation):
    """State of a run: the model, its weight average and the optimiser. Iterate `run()`; `save`/`load` resume it.

    It trains on fresh solver data, or on a pool of normalised fields `[n, c, N, N]` (float32, on any device): one that
    is given, which `save` then leaves out, or its own for a PDE with a slow solver. No more modes are kept than the
    grid has, and one where there is no prior. Raises InputError for a network or a prior that does not fit."""

    kind, mark = "pre-training", "network"

    def __init__(
        self,
        pde: PDE,
        network: NetworkConfig,
        config: PretrainConfig,
        workers: Team = ALONE,
        pool: Tensor | None = None,
    ):
        network.check()
        config = replace(config, prior_box=min(config.prior_box, network.resolution))
        chosen = bases(pde) if config.prior_box else ()
        prior = PriorConfig(config.prior_box, chosen).check(len(pde.channels), network.resolution)
        check_fits(pde, network, prior)
        self.pde, self.config = pde, config
        torch.manual_seed(config.seed)
        self.model = Denoiser(network, prior, pde.hints).to(workers.device)
        self.model.autocast = native_bfloat16(workers.device)
        self.ema = deepcopy(self.model)
        averaged = [*self.ema.network.parameters()]
        super().__init__([*self.model.network.parameters()], averaged, config.learning_rate, workers)
        self.pool, self.pool_given = pool, pool is not None
        self.ahead: dict[int, Tensor] = {}

    def fit_prior(self) -> None:
        c = self.config
        if c.prior_box:
            if self.pool is None:
                fields = training_data(self.pde, c.prior_samples, self.model.config.resolution, c.seed, PRIOR_CHUNK)
            else:
                fields = self.turned(self.pool[: c.prior_samples], torch.Generator().manual_seed(c.seed))
            prior = ModePrior.fit(fields, c.prior_box, self.model.prior_config.bases)
            for model in (self.model, self.ema):
                model.prior.load_state_dict(prior.state_dict())

    def batch(self, draw: torch.Generator) -> Tensor:
        """Normalised fields for the next update: fresh ones, or from the pool under a symmetry each."""
        c = self.config
        if self.pool is None:
            return self.fresh()
        return self.turned(self.pool[torch.randint(len(self.pool), (c.batch,), generator=draw)], draw)

    def fresh(self) -> Tensor:
        """The next update's solver data. The processes of a team make those of the next few updates together."""
        c = self.config
        if self.update not in self.ahead:
            number = self.update + self.workers.rank
            mine = training_data(self.pde, c.batch, self.model.config.resolution, c.seed, number)
            self.ahead = dict(enumerate(self.workers.gather([mine]), self.update))
        return self.ahead.pop(self.update)

    def noise(self, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
        """Standard normal; a GPU draws its own, for the CPU could not keep up with it."""
        if self.workers.device.type == "cpu":
            return torch.randn(shape, generator=draw)
        own = torch.Generator(self.workers.device).manual_seed(draw.initial_seed())
        return torch.randn(shape, generator=own, device=self.workers.device)

    def turned(self, fields: Tensor, draw: torch.Generator) -> Tensor:
        """`fields`, each under a random symmetry of the PDE."""
        turns = torch.randint(self.pde.symmetries, (len(fields),), generator=draw).tolist()
        return torch.cat([self.pde.turned(one, k) for one, k in zip(fields.split(1), turns, strict=True)])

    def learning_rate(self) -> float:
        c = self.config
        seen = self.update * c.batch
        return scheduled(c.learning_rate, (seen + c.batch) / c.warmup_samples, math.pi * min(1.0, seen / c.samples))

    def retention(self) -> float:
        half_life = min(self.config.ema_samples, 0.1 * self.update * self.config.batch)
        return 0.5 ** (self.config.batch / half_life)

    def run(self) -> Iterator[PretrainStep]:
        """Yields after every update until `samples` have been seen."""
        c = self.config
        if self.pde.training_pool and self.pool is None:
            size, resolution = self.pde.training_pool, self.model.config.resolution
            self.pool = training_data(self.pde, size, resolution, c.seed, PRIOR_CHUNK)
        if self.update == 0:
            self.fit_prior()
        lay_out(self.model, torch.channels_last)
        while self.update * c.batch < c.samples:
            start = time.perf_counter()
            draw = torch.Generator().manual_seed(derived_seed(c.seed, TRAINING_NOISE, self.update))
            clean = self.batch(draw).to(self.workers.device)
            noise = self.noise(clean.shape, draw)
            sigma = (torch.randn(c.batch, generator=draw) * c.noise_std + c.noise_mean).exp().to(self.workers.device)
            mine = self.workers.share(torch.arange(c.batch, device=self.workers.device))
            self.optimiser.zero_grad()
            loss = torch.zeros(1, device=self.workers.device)
            if len(mine):
                share = len(mine) / c.batch * self.model.loss(clean[mine], noise[mine], sigma[mine])
                share.backward()
                loss += share.detach()
            self.workers.add(self.parameters, loss)
            self.clip(1.0)
            rate = self.step()
            self.seconds += time.perf_counter() - start
            yield PretrainStep(self.update, self.update * c.batch, loss.item(), rate, self.seconds)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v for k, v in self.ema.state_dict().items()}
        return tensors | ({} if self.pool is None or self.pool_given else {"pool": self.pool})

    def _meta(self) -> dict[str, Any]:
        meta = {"update": self.update, "seconds": self.seconds, "config": asdict(self.config)}
        meta |= {"network": self.model.config.to_dict(), "pde": self.pde.name}
        return meta | {"parameters": dict(self.pde.own_parameters), "pool_given": self.pool_given}

    @classmethod
    def load(cls, pde: PDE, path: Path, workers: Team = ALONE, pool: Tensor | None = None) -> Self:
        """The run that `save` wrote, on the `pool` that it was given if it was. Raises InputError if the file is
        damaged or another PDE's."""
        tensors, optimiser, meta = cls._read(path)
        with of_this_version(path):
            if meta["pde"] != pde.name:
                raise InputError(f"{path} is a run on {meta['pde']}, not on {pde.name}")
            if meta.get("parameters", {}) != dict(pde.own_parameters):
                raise InputError(f"{path} is a run on {pde.name} with other parameters")
            if meta.get("pool_given", pool is not None) != (pool is not None):
                raise InputError(
                    f"{path} is a run on {'fresh' if pool is not None else 'given'} data: resume it on such"
                )
            run = cls(pde, NetworkConfig.from_dict(meta["network"]), PretrainConfig(**meta["config"]), workers, pool)
            run._take(tensors, optimiser, meta)
        return run

    def _take(self, tensors: dict[str, Tensor], optimiser: dict[int, dict[str, Tensor]], meta: dict[str, Any]) -> None:
        for prefix, model in (("model.", self.model), ("ema.", self.ema)):
            model.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self.pool = tensors.get("pool", self.pool)
        super()._take(tensors, optimiser, meta)

    def info(self, figures: dict | None = None) -> CheckpointInfo:
        """Metadata of the checkpoint that the averaged weights make."""
        network, config = self.model.config, self.config
        return CheckpointInfo(
            pde=self.pde.name,
            resolution=network.resolution,
            method="base",
            network=network.to_dict(),
            normalisation=self.pde.normalisation(),
            sampler=config.schedule().to_dict(),
            prior=self.model.prior_config.to_dict(),
            recipe={"config": asdict(config), "updates": self.update, "seconds": round(self.seconds)},
            figures=figures or {},
            parameters=self.pde.differing(network.resolution),
        )

    def export(self, path: Path, figures: dict | None = None) -> str:
        """Writes the averaged weights as a checkpoint and returns its SHA-256."""
        return save_checkpoint(path, self.ema, self.info(figures))

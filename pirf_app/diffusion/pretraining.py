"""EDM pre-training (arXiv 2206.00364, section 5) on an endless stream of fresh solver data, as a resumable generator.

Every update draws its own data and noise from (seed, update), so a resumed run repeats the uninterrupted one.
"""

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..pdes import PDE
from .denoiser import Denoiser
from .network import NetworkConfig
from .prior import GaussianPrior

# Solver seeds at and above this one belong to training; everything measured uses seeds below it.
TRAINING_SEED = 2**40


@dataclass(frozen=True)
class PretrainConfig:
    """Recipe. `samples` fixes the length of the cosine decay of the learning rate; noise levels are log-normal.

    `ema_samples` is the half-life of the weight average, shortened to a tenth of the samples seen early on."""

    samples: int = 100_000
    batch: int = 16
    learning_rate: float = 1e-3
    warmup_samples: int = 2_000
    noise_mean: float = -0.8
    noise_std: float = 1.6
    ema_samples: float = 3_000.0
    prior_rank: int = 256
    prior_modes: int = 32
    prior_samples: int = 8_192
    seed: int = 0


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
    return pde.normalise(pde.generate(n, resolution, TRAINING_SEED * (1 + seed) + chunk))


def denoising_loss(denoiser: Denoiser, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """EDM loss, EDM's weight 1 / c_out^2 per channel: mean square of the network's error in units of the linear one's."""
    noisy = clean + sigma[:, None, None, None] * noise
    linear, scale = denoiser.linear_part(noisy, sigma)
    target = (clean - linear) / scale
    return (denoiser.correction(noisy, sigma, linear) - target).square().mean()


class Pretraining:
    """State of a run: the model, its weight average and the optimiser. Iterate `run()`; `save`/`load` resume it."""

    def __init__(self, pde: PDE, network: NetworkConfig, config: PretrainConfig, device: str = "cpu"):
        self.pde, self.config, self.device = pde, config, device
        torch.manual_seed(config.seed)
        self.model = Denoiser(network, config.prior_rank, config.prior_modes).to(device)
        self.model.autocast = True
        self.ema = deepcopy(self.model)
        self.optimiser = torch.optim.Adam(self.model.network.parameters(), config.learning_rate, betas=(0.9, 0.99))
        self.update = 0
        self.seconds = 0.0

    def fit_prior(self) -> None:
        c = self.config
        if c.prior_rank:
            fields = training_data(self.pde, c.prior_samples, self.model.config.resolution, c.seed, TRAINING_SEED // 2)
            prior = GaussianPrior.fit(fields, c.prior_rank, c.prior_modes)
            for model in (self.model, self.ema):
                model.prior.load_state_dict(prior.state_dict())

    def learning_rate(self) -> float:
        c = self.config
        seen = self.update * c.batch
        ramp = min(1.0, (seen + c.batch) / c.warmup_samples)
        return c.learning_rate * ramp * (0.5 + 0.5 * math.cos(math.pi * min(1.0, seen / c.samples)))

    def run(self) -> Iterator[PretrainStep]:
        """Yields after every update until `samples` have been seen."""
        c = self.config
        if self.update == 0:
            self.fit_prior()
        self.model = self.model.to(memory_format=torch.channels_last)
        while self.update * c.batch < c.samples:
            start = time.perf_counter()
            clean = training_data(self.pde, c.batch, self.model.config.resolution, c.seed, self.update).to(self.device)
            draw = torch.Generator().manual_seed((c.seed << 32) + self.update)
            noise = torch.randn(clean.shape, generator=draw).to(self.device)
            sigma = (torch.randn(c.batch, generator=draw) * c.noise_std + c.noise_mean).exp().to(self.device)
            rate = self.learning_rate()
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            loss = denoising_loss(self.model, clean, noise, sigma)
            self.optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.network.parameters(), 1.0)
            self.optimiser.step()
            self.update += 1
            self._average()
            self.seconds += time.perf_counter() - start
            yield PretrainStep(self.update, self.update * c.batch, loss.item(), rate, self.seconds)

    @torch.no_grad()
    def _average(self) -> None:
        half_life = min(self.config.ema_samples, 0.1 * self.update * self.config.batch)
        keep = 0.5 ** (self.config.batch / half_life)
        for averaged, current in zip(self.ema.network.parameters(), self.model.network.parameters(), strict=True):
            averaged.lerp_(current, 1 - keep)

    def save(self, path: Path) -> None:
        """Everything that `load` needs, as one safetensors file, replaced atomically."""
        tensors = {f"model.{k}": v.contiguous() for k, v in self.model.state_dict().items()}
        tensors |= {f"ema.{k}": v.contiguous() for k, v in self.ema.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v.contiguous() for k, v in state.items()}
        meta = {"update": self.update, "seconds": self.seconds, "config": asdict(self.config)}
        meta |= {"network": self.model.config.to_dict(), "pde": self.pde.name}
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary, {"state": json.dumps(meta)})
        temporary.replace(path)

    @classmethod
    def load(cls, pde: PDE, path: Path, device: str = "cpu") -> "Pretraining":
        """The run that `save` wrote. Raises ValueError if it is another PDE's."""
        with safe_open(path, "pt") as file:
            meta = json.loads(file.metadata()["state"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        if meta["pde"] != pde.name:
            raise ValueError(f"{path} is a run on {meta['pde']}, not {pde.name}")
        run = cls(pde, NetworkConfig.from_dict(meta["network"]), PretrainConfig(**meta["config"]), device)
        part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}  # noqa: E731
        run.model.load_state_dict(part("model."))
        run.ema.load_state_dict(part("ema."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimiser.").items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        run.optimiser.load_state_dict({"state": state, "param_groups": run.optimiser.state_dict()["param_groups"]})
        run.update, run.seconds = meta["update"], meta["seconds"]
        return run

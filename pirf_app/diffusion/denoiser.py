"""EDM preconditioning (arXiv 2206.00364, table 1) around the U-Net, with a data covariance where one is given."""

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..common.checks import InputError
from ..pdes import PDE
from .network import NetworkConfig, UNet
from .prior import ModePrior, PriorConfig


def native_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether `device` computes in bfloat16 natively; a CPU that emulates it is faster in float32. PIRF_BFLOAT16=0 in
    the environment says no: a recipe and a seed then tune to the same model on every machine, up to rounding."""
    if os.environ.get("PIRF_BFLOAT16") == "0":
        return False
    kind = torch.device(device).type
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return kind == "cuda" or kind == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)


Hints = Callable[[Tensor], tuple[Tensor, Tensor]]


def check_fits(pde: PDE, network: NetworkConfig, prior: PriorConfig) -> None:
    """Raises InputError unless a denoiser of `pde` can be built of these; hints need the modes of a ModePrior."""
    channels = len(pde.channels)
    if network.hints not in (0, pde.hint_channels) or (network.hints and not prior.bases):
        raise InputError(f"the network has {network.hints} hints, and {pde.name} gives {pde.hint_channels} with modes")
    if (network.in_channels, network.out_channels) != (channels * prior.inputs + network.hints, channels):
        raise InputError(f"a network for {pde.name} has {channels} channels, and twice as many inputs with a prior")


class Denoiser(nn.Module):
    """D(x; sigma): the expected clean field `[n, c, N, N]` for a noisy one at noise levels sigma `[n]`.

    With `autocast` the network (not the prior) computes in bfloat16: faster where the processor has it, but a sample
    then depends on its batch in digit three."""

    def __init__(
        self,
        config: NetworkConfig,
        prior: PriorConfig = PriorConfig(),  # noqa: B008
        hints: Hints | None = None,
    ):
        super().__init__()
        self.hints = hints if config.hints else None
        self.network = UNet(config)
        self.prior = prior.build(config.out_channels, config.resolution)
        self.prior_config = prior
        self.autocast = False

    @property
    def config(self) -> NetworkConfig:
        return self.network.config

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.expand(len(x))
        linear, features = self.condition(x, sigma)
        return linear + self.prior.scale(self.output(features, sigma), sigma)

    def condition(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The linear estimate `[n, c, N, N]` and what the network sees: by the prior, and of the PDE's hints the guess
        at the clean field, as the output F that would make it, and the features."""
        linear, seen = self.prior.condition(x, sigma)
        if self.hints is None:
            return linear, seen
        assert isinstance(self.prior, ModePrior), "hints need its modes: `check_fits`"
        guess, features = self.hints(linear)
        return linear, torch.cat([seen, self.prior.unscale(guess - linear, sigma), features], 1)

    def output(self, features: Tensor, sigma: Tensor) -> Tensor:
        """The network's F `[n, c, N, N]`, float32."""
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.autocast):
            return self.network(features, sigma.log() / 4).float()

    def loss(self, clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """Mean square error, in every channel in units of the linear estimate's error there, so that a channel of small
        variance counts as much as any other: 1 is no better than the linear estimate."""
        return self.error(self(clean + sigma[:, None, None, None] * noise, sigma), clean, sigma)

    def error(self, estimate: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """`loss` of an estimate that has been made."""
        return ((estimate - clean).square() / self.prior.error_variance(sigma)).mean()

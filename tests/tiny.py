"""Small models that behave like the real ones and take milliseconds, and what is said of them in a checkpoint."""

import torch
from torch import Tensor

from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.network import NetworkConfig
from pirf_app.diffusion.prior import IsotropicPrior, LowRankPrior, ModePrior, Prior, PriorConfig
from pirf_app.diffusion.sampler import Schedule
from pirf_app.diffusion.two_stage import TunedDenoiser
from pirf_app.models.checkpoint import CheckpointInfo
from pirf_app.pdes import get_pde

PRIORS = ("isotropic", "modes", "low-rank")
HANDOVER = 0.1


def prior_config(pde: str, prior: str = "modes") -> PriorConfig:
    bases = tuple(channel.basis for channel in get_pde(pde).channels)
    return {"isotropic": PriorConfig(), "modes": PriorConfig(4, bases), "low-rank": PriorConfig(8, rank=8)}[prior]


def tiny_config(pde: str, prior: str = "modes", resolution: int = 16) -> NetworkConfig:
    problem = get_pde(pde)
    channels = len(problem.channels)
    padding = tuple("circular" if around else "zeros" for around in problem.periodic)
    sizes = {"base_channels": 8, "multipliers": (1, 2), "attention": (8,)}
    hints = problem.hint_channels if prior == "modes" else 0
    inputs = channels * prior_config(pde, prior).inputs + hints
    return NetworkConfig(
        resolution, inputs, channels, **sizes, padding=padding, row_waves=problem.row_waves, hints=hints
    )


def orthogonal(size: int, draw: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=draw))[0]


def fill(prior: Prior, seed: int = 0) -> Prior:
    """A mean and a covariance as of smooth fields: variances from 1 to 0.01 by mode, the axes of the joint modes at
    random."""
    draw = torch.Generator().manual_seed(seed)
    if isinstance(prior, ModePrior):
        wave = torch.linspace(0, 1, prior.variance.shape[-1])
        spread = 1 + 0.2 * torch.rand(prior.variance.shape, generator=draw)
        prior.variance.copy_(10 ** -(wave[:, None] + wave[None, :]) * spread)
        prior.rotation.copy_(orthogonal(len(prior.rotation), draw))
        prior.mean_modes.copy_(0.3 * torch.randn(prior.mean_modes.shape, generator=draw))
    elif isinstance(prior, LowRankPrior):
        rows = orthogonal(prior.directions[0].numel(), draw)[: len(prior.variance)]
        prior.directions.copy_(rows.view_as(prior.directions))
        prior.variance.copy_(torch.linspace(1, 0.2, len(prior.variance)))
        prior.mean.copy_(0.3 * torch.randn(prior.mean.shape, generator=draw))
        prior.rest.fill_(0.05)
        prior.rest_low.fill_(0.04)
    else:
        assert isinstance(prior, IsotropicPrior)
    return prior


def small_prior(kind: str) -> Prior:
    """Of 2 channels on an 8x8 grid; the modes' bases are of every family."""
    bases = (("cosine", "fourier"), ("sine", "sine-vertices"))
    config = {"isotropic": PriorConfig(), "modes": PriorConfig(3, bases), "low-rank": PriorConfig(4, rank=8)}[kind]
    return fill(config.check(2, 8).build(2, 8))


def tiny_denoiser(pde: str, seed: int = 0, prior: str = "modes", resolution: int = 16) -> Denoiser:
    """With every weight perturbed, so that the layers which start near zero take part."""
    torch.manual_seed(seed)
    model = Denoiser(tiny_config(pde, prior, resolution), prior_config(pde, prior), get_pde(pde).hints)
    fill(model.prior)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def tuned_from(base: Denoiser) -> TunedDenoiser:
    model = TunedDenoiser(base, HANDOVER)
    with torch.no_grad():
        for parameter in model.expert.network.freeze("last"):
            parameter.add_(0.05)
    return model


def info_of(model: Denoiser, pde: str, method: str = "base", solver: str = "multistep", **more) -> CheckpointInfo:
    return CheckpointInfo(
        pde=pde, resolution=model.config.resolution, method=method, network=model.config.to_dict(),
        normalisation=get_pde(pde).normalisation(), sampler=Schedule(18, 0.03, solver=solver).to_dict(),
        prior=model.prior_config.to_dict(), recipe={"seed": 3}, figures={"residual_rms": 1.5}, **more,
    )  # fmt: skip

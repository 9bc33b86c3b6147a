"""Small models that behave like the real ones and take milliseconds."""

import torch

from pirf_app.diffusion.denoiser import Denoiser
from pirf_app.diffusion.network import NetworkConfig
from pirf_app.pdes import get_pde


def tiny_config(pde: str, rank: int = 0, resolution: int = 16) -> NetworkConfig:
    channels = len(get_pde(pde).channels)
    inputs = channels * (2 if rank else 1)
    return NetworkConfig(resolution, inputs, channels, base_channels=8, multipliers=(1, 2), attention=(8,))


def tiny_denoiser(pde: str, seed: int = 0, rank: int = 0, modes: int = 1, resolution: int = 16) -> Denoiser:
    """With every weight perturbed, so that the layers which start near zero take part."""
    torch.manual_seed(seed)
    model = Denoiser(tiny_config(pde, rank, resolution), rank, modes)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()

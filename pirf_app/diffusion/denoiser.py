"""EDM preconditioning (arXiv 2206.00364, table 1) around the U-Net, with a data covariance where one is given."""

import torch
from torch import Tensor, nn

from .network import NetworkConfig, UNet
from .prior import GaussianPrior

SIGMA_DATA = 0.5


def native_bfloat16(device: str | torch.device = "cpu") -> bool:
    """Whether `device` computes in bfloat16 natively; a CPU that emulates it is faster in float32."""
    kind = torch.device(device).type
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return kind == "cuda" or kind == "cpu" and any(getattr(torch.cpu, test, bool)() for test in tests)


class Denoiser(nn.Module):
    """D(x; sigma): the expected clean field `[n, c, N, N]` for a noisy one at noise levels sigma `[n]`.

    With a prior of rank > 0 the network also sees the linear estimate, so it takes twice the channels. With `autocast`
    the network (not the rest) computes in bfloat16: faster, but a sample then depends on its batch in digit three."""

    def __init__(self, config: NetworkConfig, rank: int = 0, modes: int = 1):
        super().__init__()
        self.network = UNet(config)
        self.prior = GaussianPrior(config.out_channels, config.resolution, rank, modes, SIGMA_DATA)
        self.autocast = False

    @property
    def config(self) -> NetworkConfig:
        return self.network.config

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.expand(len(x))
        linear, scale = self.linear_part(x, sigma)
        return linear + self.prior.hold(scale * self.correction(x, sigma, linear), sigma)

    def linear_part(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The linear estimate `[n, c, N, N]` and its root mean square error `[n, c, 1, 1]` (c_skip x and c_out)."""
        return self.prior.denoise(x, sigma), self.prior.posterior_std(sigma)

    def correction(self, x: Tensor, sigma: Tensor, linear: Tensor) -> Tensor:
        """The network's output F, in units of `posterior_std`; float32."""
        c_in = (sigma**2 + SIGMA_DATA**2).rsqrt()[:, None, None, None]
        inputs = x * c_in
        if self.prior.rank:
            inputs = torch.cat([inputs, linear / SIGMA_DATA], 1)
        label = sigma.log() / 4
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            return self.network(inputs, label).float()

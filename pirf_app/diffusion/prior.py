"""The Gaussian that the preconditioning is built on: the data's mean and covariance C.

EDM (arXiv 2206.00364, section 5) derives its preconditioning from a scalar data variance. Smooth fields are far from
isotropic: nearly all their energy sits in a few modes. With C in place of the scalar, the derivation holds mode by
mode. For a mode of variance v, with theta = arctan(sigma / sqrt v) and y the noisy coefficient scaled to variance 1,

    D = sqrt v (cos theta y + sin theta F),        dy / dtheta = -F   (the probability flow ODE),

where sqrt v cos theta y is the Wiener filter and F, which has variance 1 in every mode, is the network's part. A
Gaussian has F = 0, so a solver that steps in theta is exact for it (`sampler.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.checks import InputError, check_whole, shown
from ..pdes.bases import BASES, basis

MAX_RANK, MAX_MODES = 2048, 128
SIGMA_DATA = 0.5
FAINT = 1e-4  # standard deviation of a mode
TINY = 1e-12  # variance of a mode that the data does not have
Gain = Callable[[Tensor], Tensor]


def column(sigma: Tensor) -> Tensor:
    return sigma.float().view(-1, 1, 1, 1)


class IsotropicPrior(nn.Module):
    """EDM's own: zero mean, variance 0.25 in every mode. The network sees y."""

    def __init__(self, channels: int, resolution: int):
        super().__init__()
        self.variance = torch.full((1, 1, 1), SIGMA_DATA**2)
        self.mean_field = torch.zeros(1, 1, 1)

    def filter(self, x: Tensor, gain: Gain) -> Tensor:
        """x `[n, c, N, N]` with every mode multiplied by a function of its variance."""
        return x * gain(self.variance.to(x))

    def condition(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """The linear estimate `[n, c, N, N]` of noisy fields at levels sigma `[n]`, and what the network sees."""
        s2 = column(sigma) ** 2
        return x * SIGMA_DATA**2 / (SIGMA_DATA**2 + s2), x * (SIGMA_DATA**2 + s2).rsqrt()

    def scale(self, output: Tensor, sigma: Tensor) -> Tensor:
        """The network's output F in the units of the fields: what it adds to the linear estimate."""
        return output * self.error_variance(sigma).sqrt()

    def error_variance(self, sigma: Tensor) -> Tensor:
        """Mean square error `[n, c, 1, 1]` of the linear estimate, by channel."""
        s2 = column(sigma) ** 2
        return SIGMA_DATA**2 * s2 / (SIGMA_DATA**2 + s2)


class ModePrior(nn.Module):
    """Independent modes: in the `box` lowest ones an axis the principal components of all channels together
    (`rotation [r, r]`, r = c box^2), elsewhere each channel's own functions (`bases`: a pair of names per channel).

    `mean_modes` (before the rotation) and `variance` (after it) are `[c, N, N]`, by mode; all in normalised units. The
    network sees the linear estimate and what that leaves of the noisy field, over sigma."""

    mean_modes: Tensor
    variance: Tensor
    rotation: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, channels: int, resolution: int, box: int, bases: tuple[tuple[str, str], ...]):
        super().__init__()
        self.box, size = box, channels * box**2
        self.register_buffer("mean_modes", torch.zeros(channels, resolution, resolution))
        self.register_buffer("variance", torch.ones(channels, resolution, resolution))
        self.register_buffer("rotation", torch.zeros(size, size).fill_diagonal_(1))
        rows, columns = (torch.stack([basis(pair[axis], resolution) for pair in bases]) for axis in (0, 1))
        self.register_buffer("rows", rows.float(), persistent=False)
        self.register_buffer("columns", columns.float(), persistent=False)

    @classmethod
    def fit(cls, fields: Tensor, box: int, bases: tuple[tuple[str, str], ...]) -> "ModePrior":
        """Mean and variances of normalised `fields [n, c, N, N]`, n well above the number of modes in the box."""
        n, c, resolution, _ = fields.shape
        prior = cls(c, resolution, box, bases)
        rows, columns = (m.to(fields.device, torch.float64) for m in (prior.rows, prior.columns))
        modes = torch.cat([rows @ part.double() @ columns.mT for part in fields.split(256)])
        mean = modes.mean(0)
        variance = modes.var(0)
        low = (modes - mean)[..., :box, :box].flatten(1)
        eigenvalues, rotation = torch.linalg.eigh(low.T @ low / (n - 1))
        variance[:, :box, :box] = eigenvalues.flip(0).view(c, box, box)
        prior.mean_modes.copy_(mean)
        prior.variance.copy_(variance.clamp_min(TINY))
        prior.rotation.copy_(rotation.flip(1))
        return prior

    @property
    def mean_field(self) -> Tensor:
        return self.rows.mT @ self.mean_modes @ self.columns

    def encode(self, x: Tensor) -> Tensor:
        """Coefficients `[n, c, N, N]` of x in the independent modes; an orthogonal map."""
        return self._turn(self.rows @ x @ self.columns.mT, self.rotation)

    def decode(self, modes: Tensor) -> Tensor:
        return self.rows.mT @ self._turn(modes, self.rotation.T) @ self.columns

    def _turn(self, modes: Tensor, rotation: Tensor) -> Tensor:
        box = modes[..., : self.box, : self.box]
        turned = modes.clone()
        turned[..., : self.box, : self.box] = (box.flatten(1) @ rotation).view_as(box)
        return turned

    def filter(self, x: Tensor, gain: Gain) -> Tensor:
        return self.decode(self.encode(x) * gain(self.variance))

    def _spread(self, sigma: Tensor) -> Tensor:
        """Standard deviation `[n, c, N, N]` of each mode's error in the linear estimate: sqrt v sin theta."""
        s2 = column(sigma) ** 2
        return (self.variance * s2 / (self.variance + s2)).sqrt()

    def condition(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        s2 = column(sigma) ** 2
        modes = self.encode(x - self.mean_field)
        linear = self.mean_field + self.decode(modes * self.variance / (self.variance + s2))
        return linear, torch.cat([linear / SIGMA_DATA, (x - linear) / s2.sqrt()], 1)

    def scale(self, output: Tensor, sigma: Tensor) -> Tensor:
        return self.decode(self.encode(output) * self._spread(sigma))

    def unscale(self, field: Tensor, sigma: Tensor) -> Tensor:
        """The output F that would add `field` to the linear estimate: the inverse of `scale`, except in modes that the
        data hardly has, where rounding errors would be blown up."""
        return self.decode(self.encode(field) / self._spread(sigma).clamp_min(FAINT))

    def error_variance(self, sigma: Tensor) -> Tensor:
        variance = self._spread(sigma).square()
        box = variance[..., : self.box, : self.box]
        channels = variance.shape[1]
        shares = self.rotation.square().view(channels, -1, channels * self.box**2).sum(1)
        total = variance.sum((2, 3)) - box.sum((2, 3)) + box.flatten(1) @ shares.T
        return (total / self.rows.shape[-1] ** 2)[:, :, None, None]


class LowRankPrior(nn.Module):
    """What files of format 1 were trained with: `directions [r, c, m, m]` in cosine modes with `variance [r]`, the rest
    of each channel isotropic; F is scaled by one number per channel. Read only; `rest_low` stands in the files, and is
    not used."""

    mean: Tensor
    directions: Tensor
    variance: Tensor
    rest: Tensor
    basis: Tensor

    def __init__(self, channels: int, resolution: int, rank: int, modes: int):
        super().__init__()
        self.resolution = resolution
        self.register_buffer("mean", torch.zeros(channels, modes, modes))
        self.register_buffer("directions", torch.zeros(rank, channels, modes, modes))
        self.register_buffer("variance", torch.zeros(rank))
        self.register_buffer("rest", torch.full((channels,), SIGMA_DATA**2))
        self.register_buffer("rest_low", torch.full((channels,), SIGMA_DATA**2))
        self.register_buffer("basis", basis("cosine", resolution)[:modes].float(), persistent=False)

    @property
    def mean_field(self) -> Tensor:
        return self.basis.T @ self.mean @ self.basis

    def filter(self, x: Tensor, gain: Gain) -> Tensor:
        """Outside the directions with one variance for all channels: with several, which `condition` has, the modes
        would not be independent, and undoing a filter would not give back what it was applied to."""
        return self._weigh(x, gain, self.rest.mean().view(1, 1, 1))

    def _weigh(self, x: Tensor, gain: Gain, rest: Tensor) -> Tensor:
        directions = self.directions.flatten(1)
        score = (self.basis @ x @ self.basis.T).flatten(1) @ directions.T
        field = lambda scores: self.basis.T @ (scores @ directions).view(-1, *self.mean.shape) @ self.basis  # noqa: E731
        along = gain(self.variance.view(-1, 1, 1)).flatten(-3)
        return field(score * along) + gain(rest) * (x - field(score))

    def error_variance(self, sigma: Tensor) -> Tensor:
        s2 = column(sigma).flatten(1) ** 2
        left = lambda variance: variance * s2 / (variance + s2)  # noqa: E731
        spanned = self.directions.square().sum((2, 3))
        total = left(self.variance) @ spanned + (self.resolution**2 - spanned.sum(0)) * left(self.rest)
        return (total / self.resolution**2)[:, :, None, None]

    def condition(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        s2 = column(sigma) ** 2
        linear = self.mean_field + self._weigh(x - self.mean_field, lambda v: v / (v + s2), self.rest.view(-1, 1, 1))
        return linear, torch.cat([x * (SIGMA_DATA**2 + s2).rsqrt(), linear / SIGMA_DATA], 1)

    def scale(self, output: Tensor, sigma: Tensor) -> Tensor:
        return output * self.error_variance(sigma).sqrt()


Prior = IsotropicPrior | ModePrior | LowRankPrior


@dataclass(frozen=True)
class PriorConfig:
    """Which prior: the `box` lowest modes an axis taken together and `bases` per channel (a ModePrior), `rank` and
    `box` (a LowRankPrior), or nothing (EDM's)."""

    box: int = 0
    bases: tuple[tuple[str, str], ...] = ()
    rank: int = 0

    def check(self, channels: int, resolution: int) -> "PriorConfig":
        """This configuration, if it fits fields `[n, channels, resolution, resolution]`. Raises InputError."""
        check_whole("the prior's rank", self.rank, 0, MAX_RANK)
        check_whole("the prior's box", self.box, 1 if self.bases or self.rank else 0, min(MAX_MODES, resolution))
        if self.bases:
            if len(self.bases) != channels or any(len(p) != 2 or not set(p) <= set(BASES) for p in self.bases):
                raise InputError(
                    f"the prior's bases must be {channels} pairs of {', '.join(BASES)}, not {shown(self.bases)}"
                )
            check_whole("the prior's number of joint modes", channels * self.box**2, 1, MAX_RANK)
        return self

    @property
    def inputs(self) -> int:
        """How many times the channels of a field the network sees."""
        return 2 if self.bases or self.rank else 1

    def build(self, channels: int, resolution: int) -> Prior:
        if self.bases:
            return ModePrior(channels, resolution, self.box, self.bases)
        if self.rank:
            return LowRankPrior(channels, resolution, self.rank, self.box)
        return IsotropicPrior(channels, resolution)

    def to_dict(self) -> dict:
        return {"box": self.box, "bases": [list(pair) for pair in self.bases], "rank": self.rank}

    @classmethod
    def from_dict(cls, values: dict) -> "PriorConfig":
        return cls(**(values | {"bases": tuple(tuple(pair) for pair in values.get("bases", ()))}))

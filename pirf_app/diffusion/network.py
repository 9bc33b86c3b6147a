"""The DDPM++ U-Net of Song et al. (arXiv 2011.13456) as EDM uses it (Karras et al., arXiv 2206.00364, appendix F.2)."""

from dataclasses import asdict, dataclass
from functools import partial
from math import gcd, log, pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..common.checks import MAX_RESOLUTION, InputError, check_number, check_whole, shown

MAX_LEVELS, MAX_WIDTH, MAX_BLOCKS = 6, 512, 8
COARSEST = 4  # pixels across the coarsest level
SKIP_SCALE = sqrt(0.5)
PADDINGS = ("zeros", "circular")
# What may be trained: the decoder from this level (0: full resolution) on; None is the whole network.
SUFFIXES = {"last": 0, "highres": 1, "decoder": 10, "all": None}


@dataclass(frozen=True)
class NetworkConfig:
    """Size of a U-Net. The published networks use 128 base channels, multipliers (1, 2, 2, 2), 4 blocks a level.

    With `patch` 2 a 2x2 patch of pixels becomes one pixel of 4 times the channels, and back at the end: the levels,
    and the cost, are those of half the resolution. `padding` is "zeros" or "circular", for rows and columns;
    `row_waves` adds the sine and cosine of so many periods along the rows as input channels; `hints` is how many of
    the `in_channels` are the PDE's hints (`PDE.hints`)."""

    resolution: int = 64
    in_channels: int = 2
    out_channels: int = 2
    base_channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 1
    attention: tuple[int, ...] = (16,)
    patch: int = 1
    padding: tuple[str, str] = ("zeros", "zeros")
    row_waves: tuple[float, ...] = ()
    hints: int = 0

    @property
    def grid(self) -> int:
        """Pixels across the finest level."""
        return self.resolution // self.patch

    def check(self) -> "NetworkConfig":
        """This configuration, if a network of that size can be built and run. Raises InputError."""
        check_whole("resolution", self.resolution, 8, MAX_RESOLUTION)
        check_whole("in_channels", self.in_channels, 1, 64)
        check_whole("out_channels", self.out_channels, 1, 64)
        check_whole("hints", self.hints, 0, self.in_channels)
        check_whole("blocks", self.blocks, 1, MAX_BLOCKS)
        if check_whole("base_channels", self.base_channels, 4, MAX_WIDTH) % 2:
            raise InputError(f"base_channels must be even, not {self.base_channels}")
        for name in ("multipliers", "attention", "padding", "row_waves"):
            if not isinstance(getattr(self, name), tuple):
                raise InputError(f"{name} must be a list, not {shown(getattr(self, name))}")
        if len(self.padding) != 2 or not set(self.padding) <= set(PADDINGS):
            raise InputError(f"padding must be two of {', '.join(PADDINGS)}, not {shown(self.padding)}")
        for waves in self.row_waves:
            check_number("a number of waves", waves, 0.1, 100)
        if self.resolution % check_whole("patch", self.patch, 1, 8):
            raise InputError(f"a resolution of {self.resolution} has no whole number of patches of {self.patch}")
        levels = check_whole("the number of multipliers", len(self.multipliers), 1, MAX_LEVELS)
        for multiplier in self.multipliers:
            check_whole("a multiplier", multiplier, 1, MAX_WIDTH // self.base_channels)
        for size in self.attention:
            check_whole("a resolution with attention", size, 1, MAX_RESOLUTION)
        coarsest, rest = divmod(self.grid, 2 ** (levels - 1))
        if rest or coarsest < COARSEST:
            raise InputError(
                f"a resolution of {self.grid} cannot be halved {levels - 1} times to {COARSEST} pixels or more"
            )
        return self

    def to_dict(self) -> dict:
        """As it is written to a file; what has its default and came later than the first files is left out."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        later = {"patch": 1, "padding": ["zeros", "zeros"], "row_waves": [], "hints": 0}
        return {k: v for k, v in values.items() if k not in later or v != later[k]}

    @classmethod
    def from_dict(cls, values: dict) -> "NetworkConfig":
        """Of what `to_dict` gives; `check` says whether the values are such."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(min(32, channels // 4), channels), channels, eps=1e-6)


class Conv(nn.Conv2d):
    """A convolution that keeps the size; along an axis that is "circular" the field closes on itself."""

    bias: Tensor  # is never left out

    def __init__(self, c_in: int, c_out: int, kernel: int, padding: tuple[str, str]):
        width = [kernel // 2 if kind == "circular" else 0 for kind in padding]
        super().__init__(c_in, c_out, kernel, padding=(kernel // 2 - width[0], kernel // 2 - width[1]))
        self.around = (width[1], width[1], width[0], width[0])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self.around, mode="circular") if any(self.around) else x)


def conv(
    c_in: int, c_out: int, kernel: int = 3, gain: float = 1.0, padding: tuple[str, str] = ("zeros", "zeros")
) -> Conv:
    layer = Conv(c_in, c_out, kernel, padding)
    nn.init.xavier_uniform_(layer.weight)
    with torch.no_grad():
        layer.weight.mul_(gain)
        layer.bias.zero_()
    return layer


def linear(c_in: int, c_out: int) -> nn.Linear:
    layer = nn.Linear(c_in, c_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class PositionalEmbedding(nn.Module):
    """Sine and cosine features `[n, channels]` of the noise label `[n]`."""

    def __init__(self, channels: int, max_positions: float = 10000.0):
        super().__init__()
        self.channels, self.max_positions = channels, max_positions

    def forward(self, label: Tensor) -> Tensor:
        half = self.channels // 2
        rates = torch.exp(torch.arange(half, device=label.device) * (-log(self.max_positions) / (half - 1)))
        angles = label.float()[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1)


class Attention(nn.Module):
    """Single-head self-attention over the pixels of `[n, c, h, w]`, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = conv(channels, 3 * channels, 1, gain=sqrt(0.2))
        self.proj = conv(channels, channels, 1, gain=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, c, 3, h * w).permute(2, 0, 3, 1).contiguous()
        mixed = F.scaled_dot_product_attention(q, k, v)
        return (x + self.proj(mixed.transpose(1, 2).reshape(n, c, h, w))) * SKIP_SCALE


class Block(nn.Module):
    """Residual block with the resampling inside: `resample` is "up" (nearest), "down" (2x2 mean) or None."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_emb: int,
        resample: str | None = None,
        attention: bool = False,
        padding: tuple[str, str] = ("zeros", "zeros"),
    ):
        super().__init__()
        self.resample = resample
        self.norm0 = group_norm(c_in)
        self.conv0 = conv(c_in, c_out, padding=padding)
        self.affine = linear(c_emb, c_out)
        self.norm1 = group_norm(c_out)
        self.conv1 = conv(c_out, c_out, gain=1e-5, padding=padding)
        self.skip = conv(c_in, c_out, 1) if resample or c_in != c_out else None
        self.attention = Attention(c_out) if attention else None

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        hidden = self.conv0(self._resample(F.silu(self.norm0(x))))
        hidden = F.silu(self.norm1(hidden + self.affine(emb)[:, :, None, None]))
        hidden = self.conv1(hidden)
        shortcut = self._resample(x)
        if self.skip is not None:
            shortcut = self.skip(shortcut)
        x = (shortcut + hidden) * SKIP_SCALE
        return x if self.attention is None else self.attention(x)


class UNet(nn.Module):
    """`(x [n, c_in, N, N], noise label [n]) -> [n, c_out, N, N]`.

    `freeze` keeps only a suffix of the decoder trainable; what comes before it then runs without a graph."""

    positions: Tensor

    def __init__(self, config: NetworkConfig):
        super().__init__()
        self.config = config
        base, levels = config.base_channels, len(config.multipliers)
        widths = [base * m for m in config.multipliers]
        c_emb = 4 * base
        self.embedding = PositionalEmbedding(base)
        self.map0 = linear(base, c_emb)
        self.map1 = linear(c_emb, c_emb)

        patch, position_channels = config.patch**2, 2 * len(config.row_waves)
        block = partial(Block, c_emb=c_emb, padding=config.padding)
        c_in = (config.in_channels + position_channels) * patch
        self.encoder = nn.ModuleList([conv(c_in, base, padding=config.padding)])
        skips, c = [base], base
        for level, width in enumerate(widths):
            attention = config.grid >> level in config.attention
            if level:
                self.encoder.append(block(c, c, resample="down"))
                skips.append(c)
            for _ in range(config.blocks):
                self.encoder.append(block(c, width, attention=attention))
                c = width
                skips.append(c)

        self.decoder = nn.ModuleList([block(c, c, attention=True), block(c, c)])
        self.takes_skip = [False, False]
        self.decoder_level = [levels - 1, levels - 1]
        for level in reversed(range(levels)):
            if level < levels - 1:
                self.decoder.append(block(c, c, resample="up"))
                self.takes_skip.append(False)
                self.decoder_level.append(level)
            for i in range(config.blocks + 1):
                attention = i == config.blocks and config.grid >> level in config.attention
                self.decoder.append(block(c + skips.pop(), widths[level], attention=attention))
                c = widths[level]
                self.takes_skip.append(True)
                self.decoder_level.append(level)
        self.out_norm = group_norm(c)
        self.out_conv = conv(c, config.out_channels * patch, gain=1e-5, padding=config.padding)
        with torch.device("cpu"):  # even of a network on "meta": see `basis`
            rows, waves = torch.arange(config.resolution)[:, None], torch.tensor(config.row_waves)
            phase = 2 * pi * rows / config.resolution * waves
        positions = torch.cat([phase.sin(), phase.cos()], 1).T[:, :, None].expand(-1, -1, config.resolution)
        self.register_buffer("positions", positions.contiguous(), persistent=False)
        self.first_trainable = 0

    def freeze(self, trainable: str) -> list[nn.Parameter]:
        """Leave only a suffix trainable and return its parameters: "all", "decoder", "highres" (the decoder's blocks
        at full and half resolution) or "last" (full resolution only)."""
        coarsest = SUFFIXES[trainable]
        self.requires_grad_(coarsest is None)
        self.first_trainable = 0
        if coarsest is not None:
            first = next(i for i, level in enumerate(self.decoder_level) if level <= coarsest)
            self.first_trainable = len(self.encoder) + first
            for module in (*self.decoder[first:], self.out_norm, self.out_conv):
                module.requires_grad_(True)
        return [p for p in self.parameters() if p.requires_grad]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        grad = torch.is_grad_enabled()
        x = torch.cat([x, self.positions.to(x).expand(len(x), -1, -1, -1)], 1)
        x = F.pixel_unshuffle(x, self.config.patch)
        with torch.set_grad_enabled(grad and self.first_trainable == 0):
            emb = F.silu(self.map1(F.silu(self.map0(self.embedding(label).to(x.dtype)))))
            skips = []
            for layer in self.encoder:
                x = layer(x, emb) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        for i, block in enumerate(self.decoder, len(self.encoder)):
            with torch.set_grad_enabled(grad and i >= self.first_trainable):
                x = block(torch.cat([x, skips.pop()], 1) if self.takes_skip[i - len(self.encoder)] else x, emb)
        return F.pixel_shuffle(self.out_conv(F.silu(self.out_norm(x))), self.config.patch)

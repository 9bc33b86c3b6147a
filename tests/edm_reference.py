"""EDM's DDPM++ network as arXiv 2206.00364 (table 1, appendix F.2) and 2011.13456 describe it, written apart from
`pirf_app`, and pickled the way that published networks are: objects that carry their own source."""

import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from math import sqrt
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a persistent object was reconstructed")


class Persistent(nn.Module):
    """Reduces to a call of `_reconstruct_persistent_obj` with its class's source and its attributes."""

    source = "raise AssertionError('the source in the file was executed')"

    def __reduce__(self):
        meta = EasyDict(type="class", version=6, module_src=self.source, class_name=type(self).__name__)
        meta["state"] = self.__dict__
        return _reconstruct_persistent_obj, (meta,), None


class Linear(Persistent):
    def __init__(self, c_in: int, c_out: int, bias: bool = True):
        super().__init__()
        self.in_features, self.out_features = c_in, c_out
        self.weight = nn.Parameter(torch.randn(c_out, c_in) / sqrt(c_in))
        self.bias = nn.Parameter(0.3 * torch.randn(c_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Conv2d(Persistent):
    """Resampled by the box filter [1, 1] before it is convolved."""

    def __init__(self, c_in: int, c_out: int, kernel: int, up: bool = False, down: bool = False):
        super().__init__()
        self.up, self.down, self.padding = up, down, kernel // 2
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel) / sqrt(c_in * kernel**2))
        self.bias = nn.Parameter(0.3 * torch.randn(c_out))
        box = torch.tensor([1.0, 1.0])
        self.register_buffer("resample_filter", (box[:, None] * box / 4)[None, None] if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.up or self.down:
            kernel = self.resample_filter.repeat(x.shape[1], 1, 1, 1)
            convolve = F.conv_transpose2d if self.up else F.conv2d
            x = convolve(x, kernel * (4 if self.up else 1), stride=2, groups=x.shape[1])
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)


class GroupNorm(Persistent):
    def __init__(self, channels: int):
        super().__init__()
        self.num_groups, self.eps = min(32, channels // 4), 1e-6
        self.weight = nn.Parameter(1 + 0.3 * torch.randn(channels))
        self.bias = nn.Parameter(0.3 * torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        groups = x.reshape(n, self.num_groups, -1)
        mean, variance = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
        normal = ((groups - mean) / (variance + self.eps).sqrt()).reshape(n, c, h, w)
        return normal * self.weight[:, None, None] + self.bias[:, None, None]


def silu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class UNetBlock(Persistent):
    def __init__(self, c_in: int, c_out: int, c_emb: int, up=False, down=False, attention=False):
        super().__init__()
        self.num_heads, self.skip_scale = int(attention), np.sqrt(0.5)
        self.dropout, self.adaptive_scale = 0.13, False
        self.norm0 = GroupNorm(c_in)
        self.conv0 = Conv2d(c_in, c_out, 3, up, down)
        self.affine = Linear(c_emb, c_out)
        self.norm1 = GroupNorm(c_out)
        self.conv1 = Conv2d(c_out, c_out, 3)
        self.skip = Conv2d(c_in, c_out, 1, up, down) if up or down or c_in != c_out else None
        if attention:
            self.norm2 = GroupNorm(c_out)
            self.qkv = Conv2d(c_out, 3 * c_out, 1)
            self.proj = Conv2d(c_out, c_out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        hidden = self.conv0(silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        hidden = self.conv1(silu(self.norm1(hidden)))
        x = (hidden + (self.skip(x) if self.skip is not None else x)) * self.skip_scale
        if self.num_heads:
            n, c, h, w = x.shape
            q, k, v = self.qkv(self.norm2(x)).reshape(n, c, 3, h * w).unbind(2)
            weights = torch.einsum("ncq,nck->nqk", q, k / sqrt(c)).softmax(2)
            x = (self.proj(torch.einsum("nqk,nck->ncq", weights, v).reshape(n, c, h, w)) + x) * self.skip_scale
        return x


class PositionalEmbedding(Persistent):
    def __init__(self, channels: int):
        super().__init__()
        self.num_channels, self.max_positions, self.endpoint = channels, 10000, True

    def forward(self, label: Tensor) -> Tensor:
        half = self.num_channels // 2
        rates = (1 / self.max_positions) ** (torch.arange(half) / (half - 1))
        return torch.cat([torch.cos(label[:, None] * rates), torch.sin(label[:, None] * rates)], 1)


class SongUNet(Persistent):
    def __init__(self, resolution, channels, width=128, multipliers=(1, 2, 2, 2), blocks=4, attention=(16,)):
        super().__init__()
        c_emb = 4 * width
        self.map_noise = PositionalEmbedding(width)
        self.map_label = self.map_augment = None
        self.map_layer0, self.map_layer1 = Linear(width, c_emb), Linear(c_emb, c_emb)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        c, skips = width, [width]
        for level, multiplier in enumerate(multipliers):
            n = resolution >> level
            if level == 0:
                self.enc[f"{n}x{n}_conv"] = Conv2d(channels, c, 3)
            else:
                self.enc[f"{n}x{n}_down"] = UNetBlock(c, c, c_emb, down=True)
                skips.append(c)
            for i in range(blocks):
                self.enc[f"{n}x{n}_block{i}"] = UNetBlock(c, width * multiplier, c_emb, attention=n in attention)
                c = width * multiplier
                skips.append(c)
        for level, multiplier in reversed(list(enumerate(multipliers))):
            n = resolution >> level
            if level == len(multipliers) - 1:
                self.dec[f"{n}x{n}_in0"] = UNetBlock(c, c, c_emb, attention=True)
                self.dec[f"{n}x{n}_in1"] = UNetBlock(c, c, c_emb)
            else:
                self.dec[f"{n}x{n}_up"] = UNetBlock(c, c, c_emb, up=True)
            for i in range(blocks + 1):
                attended = i == blocks and n in attention
                self.dec[f"{n}x{n}_block{i}"] = UNetBlock(
                    c + skips.pop(), width * multiplier, c_emb, attention=attended
                )
                c = width * multiplier
        self.dec[f"{n}x{n}_aux_norm"] = GroupNorm(c)
        self.dec[f"{n}x{n}_aux_conv"] = Conv2d(c, channels, 3)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        emb = self.map_noise(label)
        emb = emb.reshape(len(emb), 2, -1).flip(1).reshape(emb.shape)  # sines first
        emb = silu(self.map_layer1(silu(self.map_layer0(emb))))
        skips = []
        for name, block in self.enc.items():
            x = block(x) if name.endswith("_conv") else block(x, emb)
            skips.append(x)
        for name, block in self.dec.items():
            if name.endswith("_aux_norm"):
                x = silu(block(x))
            elif name.endswith("_aux_conv"):
                x = block(x)
            else:
                joined = "_block" in name
                x = block(torch.cat([x, skips.pop()], 1) if joined else x, emb)
        return x


class EDMPrecond(Persistent):
    def __init__(self, resolution: int, channels: int, **size):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim, self.use_fp16 = resolution, channels, 0, False
        self.sigma_min, self.sigma_max, self.sigma_data = 0, float("inf"), 0.5
        self.model = SongUNet(resolution, channels, **size)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        s, d = sigma.reshape(-1, 1, 1, 1), self.sigma_data
        output = self.model(x / (s**2 + d**2).sqrt(), torch.log(sigma) / 4)
        return x * d**2 / (s**2 + d**2) + output * s * d / (s**2 + d**2).sqrt()


class EDMLoss(Persistent):
    def __init__(self):
        super().__init__()
        self.P_mean, self.P_std, self.sigma_data = -1.2, 1.2, 0.5


def reference_network(resolution: int, channels: int, seed: int = 0, **size) -> EDMPrecond:
    torch.manual_seed(seed)
    return EDMPrecond(resolution, channels, **size).eval().requires_grad_(False)


def contents(network: nn.Module) -> dict:
    """What the published files hold."""
    return {
        "ema": network,
        "loss_fn": EDMLoss(),
        "augment_pipe": None,
        "dataset_kwargs": {"class_name": "training.dataset.Fields", "path": "data", "xflip": False},
    }


@contextmanager
def published_names() -> Iterator[None]:
    """The helpers above are found under their published names, which this process then forgets."""
    homes = {"torch_utils.persistence": _reconstruct_persistent_obj, "dnnlib.util": EasyDict}
    modules = {name: ModuleType(name) for home in homes for name in (home.partition(".")[0], home)}
    own = {item: item.__module__ for item in homes.values()}
    for home, item in homes.items():
        setattr(modules[home], item.__name__, item)
        item.__module__ = home
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
        for item, module in own.items():
            item.__module__ = module


def write_pickle(path: Path, content: object, protocol: int = 4) -> Path:
    with published_names():
        path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_saved(path: Path, content: object, legacy: bool = False) -> Path:
    """By torch.save."""
    with published_names():
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def training_state(network: nn.Module) -> dict:
    """What a training run leaves beside the published files: the network itself, and Adam's moments."""
    moments = [{"step": torch.tensor(3.0), "exp_avg": torch.zeros_like(p)} for p in network.parameters()]
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": list(range(len(moments)))}]
    return {"net": network, "optimizer_state": {"state": dict(enumerate(moments)), "param_groups": groups}}

"""Kolmogorov flow, w_t + u . grad w = lap w / Re - 0.1 w - 4 cos 4y on a periodic square of side 2 pi.

Three frames of the vorticity, 1/32 apart; rows are y_i = 2 pi i/N, columns x. Pseudo-spectral with the 2/3 rule, ETDRK4
in time: advection sees and feeds wavenumbers up to (N-1)//3 along each axis, viscosity and drag act on all.
The data comes from the statistically steady regime. The flow is chaotic: data is the same at every call, but another
processor, which rounds otherwise, has other trajectories with the same statistics.
"""

import numpy as np
import torch
from torch import Tensor

from ..common.checks import InputError
from ..common.streams import SOLVER_DATA, generator
from .base import PDE, Channel, register
from .parameters import Parameter, Value
from .stencils import shares
from .vorticity import DRAG, DT, FORCING, WAVE, Simulator, Waves, all_waves, reynolds, simulator

# Samples along a trajectory, one unit of time from each to the next.
SNAPSHOTS = 32
STEADY = 1e-4  # changes of the circulation that are less than this share of all |vorticity| are none
SQUARES = 8  # along each axis, for the conservation law


def refined(w: Tensor) -> Tensor:
    """`[..., N, N]` interpolated by its Fourier series, without the Nyquist wavenumber, to `[..., 2N, 2N]`."""
    n = w.shape[-1]
    v = torch.fft.rfft2(w)[..., : n // 2]
    between = v.new_zeros(*v.shape[:-2], n + 1, n // 2)
    v = torch.cat([v[..., : n // 2, :], between, v[..., n // 2 + 1 :, :]], -2)
    return 4 * torch.fft.irfft2(v, s=(2 * n, 2 * n))


def coarse_waves(w: Tensor) -> Tensor:
    """The real transform `[..., N, N//2 + 1]` on N points of what a field `[..., 2N, 2N]` has at these wavenumbers."""
    n = w.shape[-1] // 2
    v = torch.fft.rfft2(w)[..., : n // 2 + 1] / 4
    return torch.cat([v[..., : n // 2, :], v[..., -(n // 2) :, :]], -2)


def differences(w: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """First and second derivative along `dim` of a periodic `[..., N, N]`, fourth-order central differences."""
    h = 2 * np.pi / w.shape[-1]
    next_, last, after, before = (w.roll(i, dim) for i in (-1, 1, -2, 2))
    first = (8 * (next_ - last) - (after - before)) / (12 * h)
    return first, (16 * (next_ + last) - (after + before) - 30 * w) / (12 * h**2)


@register
class Kolmogorov(PDE):
    name = "kolmogorov"
    title = "Kolmogorov flow"
    equation = r"\omega_t + \mathbf{u}\cdot\nabla\omega = \nabla^2\omega/Re - 0.1\,\omega - 4\cos 4y"
    boundary = "periodic"
    conservation = "the circulation round each of 8 x 8 squares changes by what flows in, and so does the energy"
    conservation_short = "circulation, energy"
    caveat = "at 64x64 the solver itself is off by 6 % of the change in the waves that it keeps, 16 % over all points"
    min_resolution = 16
    extent = (2 * np.pi, 2 * np.pi)
    periodic = (True, True)
    view = "frames"
    residual_floor = 5e-3
    row_waves = (float(WAVE),)
    training_pool = 8192
    symmetries = 128
    channels = tuple(
        Channel(f"w{i}", f"vorticity at frame {i}", "1", mean=0.0, std=3.64, is_input=i == 1, basis=("fourier",) * 2)
        for i in (1, 2, 3)
    )
    adjustable = (Parameter("reynolds", "Re", "Reynolds number (Re)", 1.0, 1e6),)
    published_scaling = {"offset": [0.0] * 3, "scale": [12.0] * 3, "transposed": True}
    published_parameters = {"reynolds": 1000.0}
    # What `normalise` divides by twice: frame 1 by its standard deviation at 64 (Re = 100); the change w3 - w1, and by
    # how much w2 differs from the mean of w1 and w3, by so much that the noise hides them until the last step. They
    # follow from frame 1; made visible sooner, each would be drawn before the small vortices that it depends on.
    SCALES = (3.64, 36.0, 36.0)
    CHANGE = 0.303  # standard deviation of w3 - w1

    @property
    def domain(self) -> str:
        number = self.in_words(dict(self.own_parameters)) or "Re 100 up to N = 64, 250 up to 128, else 1000"
        return f"square of side 2 pi, y, x = 2 pi i/N; frames 1/32 apart; {number}"

    def default_parameters(self, resolution: int) -> dict[str, Value]:
        return {"reynolds": reynolds(resolution)}

    def reynolds(self, resolution: int) -> float:
        return float(self.parameters(resolution)["reynolds"])

    def waves(self, resolution: int) -> Waves:
        return all_waves(resolution, self.reynolds(resolution))

    def simulator(self, resolution: int) -> Simulator:
        return simulator(resolution, self.reynolds(resolution))

    def check_request(self, n: int, resolution: int, seed: int) -> None:
        super().check_request(n, resolution, seed)
        if resolution % 8:
            raise InputError(f"resolution must be a multiple of 8 for Kolmogorov flow, not {resolution}")

    def generate(self, n: int, resolution: int, seed: int) -> Tensor:
        """Sample k is snapshot k % 32 of trajectory k // 32."""
        self.check_request(n, resolution, seed)
        parts = []
        for start in range(0, n, SNAPSHOTS):
            rng = generator(seed, SOLVER_DATA, start // SNAPSHOTS)
            part = self.simulator(resolution).trajectory(rng, min(SNAPSHOTS, n - start))
            parts.append(torch.from_numpy(part.astype(np.float32)))
        return torch.cat(parts)

    def solve(self, fields: Tensor) -> Tensor:
        """Frames 2 and 3 simulated from frame 1; what it has above the solver's wavenumbers decays."""
        first = fields[:, 0].detach().cpu().double().numpy()
        sim = self.simulator(fields.shape[-1])
        low = sim.transform(first)
        high = torch.from_numpy(first - sim.field(low))
        decay = torch.from_numpy(np.exp(self.waves(sim.n).linear * DT))
        after = [torch.fft.irfft2(decay**i * torch.fft.rfft2(high), s=high.shape[-2:]) for i in (1, 2)]
        frames = [torch.from_numpy(sim.field(v)) + rest for v, rest in zip(sim.frames(low)[1:], after, strict=True)]
        return torch.stack([fields[:, 0], *(frame.to(fields) for frame in frames)], 1)

    def solve_error(self, fields: Tensor, solution: Tensor | None = None) -> Tensor:
        """Of frames 2 and 3, relative to their change since frame 1: copying frame 1 scores 1."""
        exact = (self.solve(fields) if solution is None else solution)[:, 1:]
        change = (exact - fields[:, :1]).flatten(1).norm(dim=1)
        return (fields[:, 1:] - exact).flatten(1).norm(dim=1) / change.clamp_min(1e-30)

    def right_hand_side(self, w: Tensor) -> Tensor:
        """lap w / Re - 0.1 w - 4 cos 4y - u . grad w of `[..., N, N]`, as in the solver."""
        waves, n = self.waves(w.shape[-1]), w.shape[-1]
        arrays = waves.linear, waves.curl, waves.kept, waves.force
        linear, curl, kept, force = (torch.from_numpy(part).to(w) for part in arrays)
        v = torch.fft.rfft2(w)
        x, y = self.velocity(v * kept).unbind(-3)
        products = torch.fft.rfft2(torch.stack([x * y, (y - x) * (y + x)], -3))
        return torch.fft.irfft2(linear * v + (curl * products).sum(-3) + force, s=(n, n))

    def velocity(self, v: Tensor) -> Tensor:
        """Velocity along x and y `[..., 2, N, N]` of the vorticity with real transform v."""
        waves = torch.from_numpy(self.waves(v.shape[-2]).velocity).to(v)
        return torch.fft.irfft2(waves * v.unsqueeze(-3), s=(v.shape[-2],) * 2)

    def residual(self, fields: Tensor) -> Tensor:
        """Fourth order in time: (w3 - w1) / 2 dt - (R1 + 4 R2 + R3) / 6, R the right-hand side."""
        r = self.right_hand_side(fields)
        return (fields[:, 2] - fields[:, 0]) / (2 * DT) - (r[:, 0] + 4 * r[:, 1] + r[:, 2]) / 6

    def second_residual(self, fields: Tensor) -> Tensor:
        """Fourth-order finite differences on a grid twice as fine, at the middle frame alone, with the central
        difference in time. Advection is cut to the solver's wavenumbers: what it has above, and the solver drops, is a
        fifth of w_t at 64."""
        n, fine = fields.shape[-1], refined(fields[:, 1])
        x, y = self.velocity(torch.fft.rfft2(fine)).unbind(-3)
        (w_x, w_xx), (w_y, w_yy) = differences(fine, -1), differences(fine, -2)
        kept = torch.from_numpy(self.waves(n).kept).to(fields)
        linear = coarse_waves((w_xx + w_yy) / self.reynolds(n) - DRAG * fine)
        r = torch.fft.irfft2(linear - kept * coarse_waves(x * w_x + y * w_y), s=(n, n))
        force = FORCING * torch.cos(2 * np.pi * WAVE / n * torch.arange(n, dtype=torch.float64)).to(fields)
        return (fields[:, 2] - fields[:, 0]) / (2 * DT) - r + force[:, None]

    def paper_residual(self, fields: Tensor) -> Tensor:
        """Spectral at the middle frame, products on the grid itself, and the central difference in time."""
        waves, w, n = self.waves(fields.shape[-1]), fields[:, 1], fields.shape[-1]
        linear, force = (torch.from_numpy(p).to(w) for p in (waves.linear, waves.force))
        v = torch.fft.rfft2(w)
        gradient = torch.fft.irfft2(torch.from_numpy(waves.gradient).to(v) * v.unsqueeze(-3), s=(n, n))
        r = torch.fft.irfft2(linear * v + force, s=(n, n)) - (self.velocity(v) * gradient).sum(-3)
        return (fields[:, 2] - fields[:, 0]) / (2 * DT) - r

    def boundary_violation(self, fields: Tensor) -> Tensor:
        """None: the grid wraps around."""
        return fields.new_zeros(len(fields))

    def balance(self, fields: Tensor) -> Tensor:
        """The largest of three: how far the circulation round 8 x 8 squares is from changing by what the right-hand
        side brings, frame to frame, over its changes; how far the kinetic energy's budget over the three frames is from
        closing, |E3 - E1 - (work of the forcing - viscous dissipation - drag)| over the sum of the three's sizes; and
        the mean vorticity, which must be zero, over the RMS, in the worst frame."""
        n, dims = fields.shape[-1], (-2, -1)
        inverse, force = (torch.from_numpy(p).to(fields) for p in (self.waves(n).inverse, self.waves(n).force))
        stream = torch.fft.irfft2(inverse * torch.fft.rfft2(fields), s=(n, n))
        energy = (stream * fields).mean(dims) / 2
        work = (stream * torch.fft.irfft2(force, s=(n, n))).mean(dims)
        lost = fields.var(dims, correction=0) / self.reynolds(n) + 2 * DRAG * energy
        over_time = DT / 3 * torch.tensor([1.0, 4.0, 1.0]).to(fields)
        gap = (energy[:, 2] - energy[:, 0] - (work - lost) @ over_time).abs()
        mean = fields.mean(dims).abs() / fields.square().mean(dims).sqrt().clamp_min(1e-6)
        budget = gap / ((work.abs() + lost) @ over_time).clamp_min(1e-12)
        return torch.stack([self.circulation(fields), budget, mean.amax(1)]).amax(0)

    def circulation(self, fields: Tensor) -> Tensor:
        """|change of the circulation - what the right-hand side brings| round 8 x 8 squares from frame to frame, in
        all, over that of |change|: `[n]`. Over a step the right-hand side is the parabola through the three frames.
        Points on a side count half to either square, so that a reflection takes squares to squares."""
        step = DT / 12 * torch.tensor([[5.0, 8, -1], [-1, 8, 5]]).to(fields)
        brought = torch.einsum("sf,nfhw->nshw", step, self.right_hand_side(fields))
        squares = shares(SQUARES, fields.shape[-1], fields)
        squares = (squares + squares.roll(1, -1)) / 2
        parts = (fields.diff(dim=1), fields.diff(dim=1) - brought)
        change, gap = ((squares @ x @ squares.T).abs().sum((1, 2, 3)) for x in parts)
        return gap / torch.maximum(change, STEADY * fields.abs().sum((1, 2, 3))).clamp_min(1e-12)

    def error_field(self, fields: Tensor) -> Tensor:
        """The errors of frames 2 and 3, stacked along the rows: `[n, 2h, w]`, in units of the standard deviation of
        w3 - w1. Frame 3 is off by the residual over two steps; frame 2 by its distance from the cubic in time that
        frames 1 and 3 and their right-hand sides give."""
        w1, w2, w3 = fields.unbind(1)
        r1, r2, r3 = self.right_hand_side(fields).unbind(1)
        e2 = w2 - (w1 + w3) / 2 - DT / 4 * (r1 - r3)
        e3 = w3 - w1 - DT / 3 * (r1 + 4 * r2 + r3)
        return torch.cat([e2, e3], 1) / self.CHANGE

    def normalise(self, fields: Tensor) -> Tensor:
        """Frame 1 to a standard deviation of about 0.5; the change w3 - w1, and w2 against the mean of the two, to far
        smaller ones (`SCALES`)."""
        w1, w2, w3 = fields.unbind(1)
        parts = (w1, w3 - w1, w2 - (w1 + w3) / 2)
        return torch.stack([part / (2 * s) for part, s in zip(parts, self.SCALES, strict=True)], 1)

    def denormalise(self, x: Tensor) -> Tensor:
        w1, change, bend = (part * (2 * s) for part, s in zip(x.unbind(1), self.SCALES, strict=True))
        return torch.stack([w1, w1 + change / 2 + bend, w1 + change], 1)

    hint_channels = 5

    def hints(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The guess is that the vorticity goes on changing at the rate that the middle frame's linear estimate implies;
        the features are that frame's velocity, in units of 2."""
        fields = self.denormalise(x)
        rate = self.right_hand_side(fields[:, 1])
        guess = torch.stack([x[:, 0], 2 * DT * rate / (2 * self.SCALES[1]), x[:, 2]], 1)
        return guess, self.velocity(torch.fft.rfft2(fields[:, 1])) / 2

    def normalisation(self) -> dict:
        return super().normalisation() | {"scales": list(self.SCALES)}

    def transform(self, fields: Tensor, k: int) -> Tensor:
        """Number k = i + 8 j + 64 m: rotation by pi if m, then x -> -x, y -> y + pi/4, w -> -w j times, then a shift by
        i eighths of the period along x."""
        eighth = fields.shape[-1] // 8
        shift, reflections, turned = k % 8, k // 8 % 8, k >= 64
        flipped = ([-2] if turned else []) + ([-1] if turned != (reflections % 2 == 1) else [])
        # Reversed indices i -> -i modulo N: the flip sends 0 to N-1, a shift by one brings it back.
        fields = fields.flip(flipped).roll([1] * len(flipped), flipped) if flipped else fields
        fields = fields.roll((reflections * eighth, shift * eighth), (-2, -1))
        return -fields if reflections % 2 else fields

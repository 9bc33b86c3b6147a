"""`python -m pirf_app pretrain`: a base checkpoint from solver data, or from fields of one's own."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from ..common.checks import InputError
from ..common.parallel import team
from ..diffusion.network import NetworkConfig
from ..diffusion.sampler import SOLVERS
from ..evaluation.own_data import read_fields, split_samples
from ..pdes import PDE, get_pde, pde_names
from ..training.pretraining import PretrainConfig, Pretraining, network_for
from ..training.run_state import Saves
from .check import key_names
from .options import Device, Parameters, named_values, say, state_beside, whole_numbers

_PRETRAIN, _NETWORK = PretrainConfig(), NetworkConfig()
FEWEST = 8  # fields that a covariance can be guessed from


def own_pool(pde: PDE, path: Path, keys: str | None, scaling: str, resolution: int | None) -> Tensor:
    """Fields of one's own, normalised, `[n, c, N, N]`, without those that are not finite. Raises InputError."""
    fields = read_fields(path, pde, key_names(keys), scaling)
    good, bad = split_samples(fields, pde)
    for k, why in bad:
        say(f"sample {k} is left out: {why}")
    if len(good) < FEWEST:
        raise InputError(f"{path.name} has {len(good)} fields to train on, and {FEWEST} are the fewest")
    if resolution not in (None, fields.shape[-1]):
        raise InputError(f"{path.name} has fields of {fields.shape[-1]}x{fields.shape[-1]}, not of {resolution}")
    pde.check_request(len(good), fields.shape[-1], 0)
    return pde.normalise(fields[good]).float()


def pretrain(
    pde: Annotated[str, typer.Option(help=f"benchmark: {', '.join(pde_names())}")] = "darcy",
    out: Annotated[Path, typer.Option(help="file to write")] = Path("base.safetensors"),
    samples: Annotated[
        int | None,
        typer.Option(help=f"samples to train on (default: {_PRETRAIN.samples}); the learning rate decays over them"),
    ] = None,
    batch: int = _PRETRAIN.batch,
    learning_rate: float = _PRETRAIN.learning_rate,
    resolution: Annotated[
        int | None, typer.Option(help=f"grid points an axis (default: {_NETWORK.resolution}, or those of the data)")
    ] = None,
    channels: Annotated[int, typer.Option(help="base channels of the U-Net")] = _NETWORK.base_channels,
    multipliers: Annotated[str, typer.Option(help="channel multipliers by level")] = "1,2,3,4",
    blocks: Annotated[int, typer.Option(help="residual blocks a level")] = _NETWORK.blocks,
    patch: Annotated[int, typer.Option(help="pixels an axis that the network takes as one")] = _NETWORK.patch,
    prior_box: Annotated[
        int, typer.Option(help="lowest modes an axis with a full covariance; 0: EDM's scalar variance")
    ] = _PRETRAIN.prior_box,
    noise_mean: Annotated[float, typer.Option(help="mean of log sigma in training")] = _PRETRAIN.noise_mean,
    noise_std: Annotated[float, typer.Option(help="standard deviation of log sigma in training")] = _PRETRAIN.noise_std,
    sigma_min: Annotated[float | None, typer.Option(help="lowest noise level to recommend")] = None,
    sigma_max: Annotated[float | None, typer.Option(help="highest noise level to recommend")] = None,
    rho: Annotated[float | None, typer.Option(help="spacing of the noise levels to recommend")] = None,
    solver: Annotated[str | None, typer.Option(help="solver to recommend: " + ", ".join(SOLVERS))] = None,
    seed: Annotated[int, typer.Option(help="whole number from 0 to 2^63 - 1")] = 0,
    parameter: Parameters = None,
    own: Annotated[
        Path | None, typer.Option("--data", help="fields of your own to train on: .npz, .npy, .mat, .h5")
    ] = None,
    keys: Annotated[str | None, typer.Option(help="which array of theirs holds what, as for `check`")] = None,
    scaling: Annotated[str, typer.Option(help="theirs: physical, published or normalised")] = "physical",
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="continue from the state beside the output")] = False,
    save_every: Annotated[float, typer.Option(help="seconds between saves of the state")] = 240.0,
) -> None:
    """Train a base checkpoint on fresh solver data, or on your own (--data). The state for --resume is kept beside OUT,
    with the suffix .state; a resumed run keeps its options, but --samples may set a new length, and the recommended
    sampler may change."""
    problem, state, workers = get_pde(pde, named_values(parameter)), state_beside(out), team(device)
    pool = own_pool(problem, own, keys, scaling, resolution) if own else None
    resolution = pool.shape[-1] if pool is not None else _NETWORK.resolution if resolution is None else resolution
    chosen = {"samples": samples, "sigma_min": sigma_min, "sigma_max": sigma_max, "rho": rho, "solver": solver}
    chosen = {k: v for k, v in chosen.items() if v is not None}
    if resume and state.exists():
        run = Pretraining.load(problem, state, workers, pool)
        run.config = replace(run.config, **chosen)
    else:
        chosen |= {"batch": batch, "learning_rate": learning_rate, "prior_box": prior_box, "seed": seed}
        chosen |= {"noise_mean": noise_mean, "noise_std": noise_std}
        size = {"resolution": resolution, "base_channels": channels, "blocks": blocks, "patch": patch}
        widths = tuple(whole_numbers("multipliers", multipliers))
        network = network_for(problem, prior_box > 0, multipliers=widths, **size)
        run = Pretraining(problem, network, PretrainConfig(**chosen), workers, pool)
    losses = []
    with Saves(run, state, save_every, say) as saves:
        for step in saves.events():
            losses.append(step.loss)
            if workers.main and step.update % 50 == 0:
                mean = sum(losses) / len(losses)
                say(f"{step.samples} samples  loss {mean:.4f}  rate {step.learning_rate:.1e}  {step.seconds:.0f} s")
                losses = []
        if workers.main:
            print(f"wrote {out}, SHA-256 {run.export(out)}")

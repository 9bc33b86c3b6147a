"""Tune a bundled model with a reward of your own, and see what it did: `python examples/tune.py`."""

import sys

import torch

import pirf_app as pirf


def smooth_edge(fields: torch.Tensor) -> torch.Tensor:
    """A reward for a small gradient of u next to the walls, beside the physics; one number a sample."""
    u = fields[:, 1]
    walls = torch.cat([u[:, 0], u[:, -1], u[:, :, 0], u[:, :, -1]], 1)
    physics = pirf.residual("poisson", fields).square().mean((1, 2))
    return -physics - 1e4 * walls.square().mean(1)


def main(updates: int = 20) -> None:
    model = pirf.load("poisson", "base")
    tuned = pirf.tune(model, updates=updates, reward=smooth_edge, pool=32, seed=0)
    for name, one in (("before", model), ("after", tuned)):
        fields = one.sample(n=8, steps=10, seed=1)
        print(f"{name}: reward {smooth_edge(fields).mean():.5f}, {one}")
    tuned.save("mine.safetensors")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

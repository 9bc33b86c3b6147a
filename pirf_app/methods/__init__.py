"""How physics enters a diffusion model."""

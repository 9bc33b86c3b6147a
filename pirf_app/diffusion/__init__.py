"""Networks, preconditioning and samplers; no benchmark by name."""

"""EDM's network files within a test: small ones, the command that imports them, how they are refused."""

import pytest
from edm_reference import EDMPrecond, reference_network

from pirf_app.cli.main import main
from pirf_app.models.checkpoint import CheckpointError
from pirf_app.models.edm.network import import_edm
from pirf_app.pdes import get_pde

SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}


def network(pde: str = "darcy", resolution: int = 16, size: dict = SMALL, seed: int = 0) -> EDMPrecond:
    return reference_network(resolution, len(get_pde(pde).channels), seed, **size)


def run(*arguments, capsys) -> tuple[int, str]:
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err


def refused(path, pde: str = "darcy") -> str:
    with pytest.raises(CheckpointError) as error:
        import_edm(path, pde)
    message = str(error.value)
    assert message.startswith(path.name)
    assert "\n" not in message
    assert len(message) < 300
    return message

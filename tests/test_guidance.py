"""Physics while sampling: where it acts, what it costs, and that each move is the best along its line."""

import pytest
import torch
from tiny import info_of, tiny_denoiser
from torch import Tensor

from pirf_app.common.checks import InputError
from pirf_app.diffusion.guidance import GUIDANCE, GuidedDenoiser
from pirf_app.diffusion.sampler import Schedule, initial_noise, together
from pirf_app.evaluation.comparison import compare, last
from pirf_app.evaluation.figures import draw_together
from pirf_app.interface import Model
from pirf_app.methods.registry import METHODS
from pirf_app.models.checkpoint import Checkpoint
from pirf_app.models.library import guided
from pirf_app.pdes import get_pde, pde_names

pytestmark = pytest.mark.usefixtures("quick_data")
every_pde = pytest.mark.parametrize("name", pde_names())
every_guidance = pytest.mark.parametrize("method", GUIDANCE)


def base_of(name: str, prior: str = "modes") -> Checkpoint:
    model = tiny_denoiser(name, prior=prior)
    return Checkpoint(model.requires_grad_(False), info_of(model, name), "0" * 64)


def squares(denoiser: GuidedDenoiser, x: Tensor) -> Tensor:
    return denoiser.residual(x).square().flatten(1).sum(1)


@every_pde
@every_guidance
@pytest.mark.parametrize("prior", ["modes", "isotropic"])
def test_samples_have_a_smaller_residual_and_do_not_depend_on_their_batch(name, method, prior):
    base = base_of(name, prior)
    steered = guided(base, method)
    plain, guided_ = draw_together([base, steered], 4, 3, 0)
    before, after = plain.fields, guided_.fields
    pde = base.problem
    rms = lambda fields: pde.interior(pde.residual(fields)).square().mean((1, 2))  # noqa: E731
    assert (rms(after) < rms(before)).all()
    alone = draw_together([base, steered], 4, 1, 0)[1].fields
    torch.testing.assert_close(alone, after[:1], rtol=1e-3, atol=1e-3 * after.std().item())
    assert plain.nfe == 4
    assert (steered.info.method, steered.sha256, steered.base_denoiser) == (method, base.sha256, base.denoiser)


@pytest.mark.parametrize("name", ["poisson", "helmholtz"])  # linear: there the first order is all
def test_a_move_goes_to_the_least_residual_on_its_line(name):
    denoiser = guided(base_of(name), "cocogen").denoiser.double()
    x, line = torch.randn(2, 3, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved = denoiser.moved(x, lambda gradient: line)
    least = squares(denoiser, moved)
    for share in (0.9, 0.99, 1.01, 1.1):
        assert (squares(denoiser, x + share * (moved - x)) > least).all()


def test_the_gradient_goes_through_the_network():
    """Against finite differences: the move is along the gradient with respect to the noisy field."""
    denoiser, sigma = guided(base_of("darcy"), "diffusionpde").denoiser, torch.tensor(0.3)
    x, along = torch.randn(2, 1, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    half = lambda x: squares(denoiser, denoiser.base(x, sigma)).item() / 2  # noqa: E731
    slope = (half(x + 1e-3 * along) - half(x - 1e-3 * along)) / 2e-3
    seen = []
    denoiser.moved = lambda estimate, direction: seen.append((estimate, direction))
    denoiser(x, sigma)
    ((estimate, direction),) = seen
    torch.testing.assert_close(estimate, denoiser.base(x, sigma))
    leaf = estimate.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(squares(denoiser, leaf).sum() / 2, leaf)
    through = (direction(gradient) * along).sum().item()
    assert through == pytest.approx(slope, rel=1e-2)
    assert (gradient * along).sum().item() != pytest.approx(slope, rel=0.1)


@every_guidance
def test_steps_above_its_noise_level_are_those_of_the_baseline_and_computed_once(method):
    base, calls = base_of("poisson"), []
    base.denoiser.register_forward_pre_hook(lambda module, arguments: calls.append(float(arguments[1])))
    steered = guided(base, method).denoiser
    schedule = Schedule(12, 0.03, solver="multistep")
    levels = schedule.sigmas()[:-1]
    with torch.no_grad():
        ends = list(together([base.denoiser, steered], initial_noise(2, (2, 16, 16), 0), schedule))
    apart = levels <= GUIDANCE[method].below
    assert 0 < apart.sum() < 12
    assert len(calls) == 12 + apart.sum()
    same = [torch.equal(plain.x, other.x) for plain, other in ends]
    assert same == [not here for here in apart]


@every_guidance
def test_it_is_compared_like_any_method_and_is_nothing_to_tune(tiny_library, method):
    result = last(compare(tiny_library, "darcy", ["base", method], 4, 2, 0))
    assert [r.row["method"] for r in result.results] == ["base", method]
    assert result.results[1].row["residual_ratio"] < 1
    assert GUIDANCE[method].title in result.sentence
    for kind in METHODS.values():
        with pytest.raises(InputError, match=f"{method} is a way to sample the baseline: start from base"):
            kind.tuning(tiny_library.load("darcy", method), kind.config())


def test_a_field_that_solves_the_equation_stays():
    """Where there is nothing left of the equation the move is none, not a division by zero."""
    pde = get_pde("poisson")
    denoiser = guided(base_of("poisson"), "cocogen").denoiser
    x = torch.zeros(1, 2, 16, 16)
    assert torch.equal(pde.residual(pde.denormalise(x)), torch.zeros(1, 16, 16))
    assert torch.equal(denoiser.moved(x, lambda gradient: gradient), x)


def test_a_guided_model_is_not_saved(tmp_path):
    """It is the baseline's file."""
    model = Model(guided(base_of("poisson"), "cocogen"))
    with pytest.raises(InputError, match="save base"):
        model.save(tmp_path / "guided.safetensors")
    assert not list(tmp_path.iterdir())

"""A fine-tuning method is one file: a made-up one, put into a copy of the package, is found wherever methods are."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import pytest
from tiny import info_of, tiny_denoiser

from pirf_app.common.checks import InputError
from pirf_app.common.paths import CHECKOUT
from pirf_app.methods.registry import METHODS, Method, register
from pirf_app.models.checkpoint import read_info, save_checkpoint
from pirf_app.training.config import TuningConfig, setting, settings_of

FILE = '''"""A made-up method: the samples are drawn towards zero."""

from dataclasses import dataclass

import torch

from ..common.streams import POOL_NOISE
from ..training.config import TuningConfig, setting
from ..training.handover import Handovers
from ..training.loop import TuningLoop
from .registry import register


@dataclass(frozen=True)
class NudgeConfig(TuningConfig):
    drift: float = 0.25
    pull: float = setting(2.0, "weight that draws the samples to zero", "Pull to zero", above=0, high=9)
    way: str = setting("square", "how far they are from it", "Distance", choices={"square": "squares", "size": "sizes"})


@register("Nudge", "towards zero", "made up")
class NudgeTuning(TuningLoop):
    method, config_class = "nudge", NudgeConfig

    def draw_pool(self):
        self.pool = Handovers()
        yield from self.draw_handovers(self.pool, self.config.pool, POOL_NOISE, self.config.validation)

    def stand_in(self, steps, x, sample):
        self.pool = Handovers()
        self.pool.add(steps, x=x, sample=sample)

    def calibrate(self):
        yield from ()

    def batch(self, chance):
        steps = self.config.pool_steps[0]
        return steps, torch.randint(len(self.pool.x[steps]), (self.config.batch,), generator=chance)

    def objective(self, batch, rows):
        steps, chosen = batch
        loss, anchor = self.held_out(self.finish(self.pool.state(steps, chosen[rows]), steps), None)
        return loss, torch.stack([loss, anchor, loss]).detach()

    def held_out(self, ends, before):
        distance = ends.square() if self.config.way == "square" else ends.abs()
        return self.config.pull * distance.mean(), ends.new_zeros(())
'''
PAGE = """
import json, sys
from pathlib import Path
from pirf_app.models.library import Library
from pirf_app.ui.page import build

demo = build(Library(Path(sys.argv[1])), Path(sys.argv[1]) / "missing.npz")
asked = demo.get_api_info()["named_endpoints"]["/finetune"]
parts = {part["props"].get("elem_id"): part["props"] for part in demo.config["components"]}
print(json.dumps({"asked": asked, "parts": {k: v for k, v in parts.items() if k}}, default=str))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a copy of the package that has one file more, and models of 16x16."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(CHECKOUT / "pirf_app", folder / "pirf_app", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pirf_app" / "methods" / "nudge.py").write_text(FILE)
    (folder / "checkpoints").mkdir()
    model = tiny_denoiser("poisson")
    save_checkpoint(folder / "checkpoints" / "poisson-16-base.safetensors", model, info_of(model, "poisson"))
    return folder


def python(place, *arguments, code: int = 0) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"COLUMNS": "200"}
    words = [sys.executable, *map(str, arguments)]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    return done


def test_the_command_line_offers_it_and_tunes_with_it(place):
    text = " ".join(python(place, "-m", "pirf_app", "finetune", "--help").stdout.split())
    assert "pirf, nudge, pidm" in text
    assert "weight that draws the samples to zero (default: Nudge 2.0)" in text
    assert "how far they are from it: one of square, size (default: Nudge square)" in text
    assert "(default: PIRF 1.0, Nudge 0.25, PIDM 0.0)" in text
    base = ["--from", "checkpoints/poisson-16-base.safetensors"]
    tune = ["-m", "pirf_app", "finetune", "--pde", "poisson", "--method", "nudge", *base]
    few = {"updates": 3, "pool": 8, "batch": 4, "validation": 2, "pool-steps": 4, "pull": 3.5, "way": "size"}
    tune += [word for option, value in few.items() for word in (f"--{option}", value)]
    done = python(place, *tune, "--out", "my.safetensors")
    assert "--pull 3.5 --way size" in done.stderr
    recipe = read_info(place / "my.safetensors").recipe
    assert (read_info(place / "my.safetensors").method, recipe["updates"]) == ("nudge", 3)
    assert (recipe["config"]["pull"], recipe["config"]["way"], recipe["config"]["drift"]) == (3.5, "size", 0.25)
    for option, value, words in (
        ("pull", 0, "pull must be a finite number above 0 and of at most 9, not 0.0"),
        ("way", "up", "way must be one of square, size, not 'up'"),
        ("norm", "plain", "Nudge has no setting 'norm'"),
    ):
        refused = python(place, *tune, f"--{option}", value, "--out", "no.safetensors", code=2)
        assert " ".join(refused.stderr.split()) == f"Error: {words}"


def test_the_page_and_its_endpoint_offer_it(place):
    found = json.loads(python(place, "-c", PAGE, "checkpoints").stdout.splitlines()[-1])
    asked = {part["parameter_name"]: part for part in found["asked"]["parameters"]}
    assert asked["pull"]["parameter_default"] is None
    assert asked["way"]["parameter_has_default"]
    assert "chunk" not in asked
    words = found["asked"]["description"]
    assert "nudge (Nudge, towards zero, made up)" in words
    said = "weight that draws the samples to zero: a finite number above 0 and of at most 9; default Nudge 2.0"
    assert f"pull: {said}" in words
    parts = found["parts"]
    assert ["Nudge", "nudge"] in parts["train-method"]["choices"]
    assert (parts["train-pull"]["label"], parts["train-pull"]["visible"]) == ("Pull to zero", False)
    assert (parts["train-way"]["label"], parts["train-way"]["value"]) == ("Distance", "square")
    assert parts["train-way"]["choices"] == [["squares", "square"], ["sizes", "size"]]


def test_every_setting_is_said_once_and_a_default_of_a_method_keeps_what_is_said():
    shared = settings_of(TuningConfig)
    for kind in METHODS.values():
        assert kind.settings.items() >= shared.items()
        assert all(known.help for known in kind.settings.values())
    defaults = {kind.config.drift for kind in METHODS.values()}
    assert len(defaults) > 1


def test_what_is_not_said_or_means_two_things_is_no_method(monkeypatch):
    @dataclass(frozen=True)
    class Silent(TuningConfig):
        strength: float = 1.0

    with pytest.raises(TypeError, match="says nothing of its field strength"):
        Silent()
    with pytest.raises(TypeError, match="a setting is a number"):
        setting(None, "nothing")

    @dataclass(frozen=True)
    class Other(TuningConfig):
        norm: str = setting("large", "another norm", choices={"large": "large"})

    class Tuning(METHODS["pirf"].tuning):
        method, config_class = "other", Other

    with pytest.raises(ValueError, match="mean different things by norm"):
        register("Other", "otherwise", "nowhere")(Tuning)
    assert "other" not in METHODS


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("updates", 10.0, "updates must be a whole number from 1 to 1000000, not 10.0"),
        ("updates", True, "updates must be a whole number"),
        ("seed", 2**63, r"seed must be a whole number from 0 to 2\^63 - 1"),
        ("ema", 1.0, "ema must be a finite number of at least 0 and below 1, not 1.0"),
        ("learning_rate", float("nan"), "learning_rate must be a finite number above 0, not nan"),
        ("drift", "0", "drift must be a finite number of at least 0, not '0'"),
        ("trainable", ["last"], "trainable must be one of last, highres, decoder, all"),
        ("pool_steps", (), "pool_steps must be whole numbers from 2 to 1000"),
        ("pool_steps", 10, "pool_steps must be whole numbers from 2 to 1000, not 10"),
        ("pool_steps", (10, 1), "pool_steps must be whole numbers from 2 to 1000"),
        ("updates", (10,), "updates must be a whole number"),
    ],
)
def test_bounds_are_those_that_are_said(name, value, words):
    with pytest.raises(InputError, match=f"^{words}"):
        TuningConfig(**{name: value})


def test_methods_are_described():
    assert all(isinstance(kind, Method) and kind.title and kind.does and kind.source for kind in METHODS.values())

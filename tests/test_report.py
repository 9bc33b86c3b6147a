"""Reports of `evaluate`: merged, and as tables in a README."""

import json

import pytest
from terminal import refused, run

from pirf_app.evaluation.report import format_summary, merge, replace_tables


@pytest.mark.usefixtures("small_models")
def test_evaluate_with_another_solver_and_its_table():
    options = ["--pde", "poisson", "--methods", "base", "--steps", "3", "--n", 2]
    assert run("evaluate", *options, "--solver", "heun", "--json", "heun.json") == 0
    assert run("evaluate", *options, "--json", "own.json") == 0
    with open("heun.json") as heun, open("own.json") as own:
        assert [json.load(file)["rows"][0]["nfe"] for file in (heun, own)] == [5, 3]
    with open("README.md", "w") as file:
        file.write("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    assert run("table", "heun.json", "own.json", "--json", "both.json", "--into", "README.md") == 0
    with open("README.md") as readme, open("both.json") as both:
        text = readme.read()
        assert len(json.load(both)["rows"]) == 2
    assert "old" not in text
    assert text.count("| poisson | base | 3 |") == 2
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_the_later_of_two_reports_counts_and_the_summary_is_of_ten_steps(tmp_path):
    def row(method: str, residual: float, steps: int = 10) -> dict:
        figures = {"residual_rms": residual, "second_residual_rms": 2 * residual}
        figures |= {"solve_error_median": residual / 100, "conservation_rate": 1.0, "residual_median": residual}
        return {"pde": "darcy", "resolution": 64, "method": method, "steps": steps, "nfe": steps} | figures

    older = {"rows": [row("base", 2.0), row("pirf", 1.5), row("pirf", 9.0, 20)], "floors": {"darcy": 1}}
    newer = {"rows": [row("pirf", 0.5)], "floors": {"darcy": 2, "poisson": 3}, "environment": {"seed": 0}}
    merged = merge([older | {"environment": {}}, newer])
    assert merged["rows"] == [row("base", 2.0), row("pirf", 0.5), row("pirf", 9.0, 20)]
    assert merged["floors"] == {"darcy": 2, "poisson": 3}
    assert merged["environment"] == {"seed": 0}
    both = [*merged["rows"], row("cocogen", 0.1), row("pidm", 1.0), row("base", 1.0) | {"pde": "poisson"}]
    assert format_summary(both).splitlines()[2:] == [
        "| Darcy | Baseline | 10 | 2 | 2 | 4 | 2.00% | 100% |",
        "|  | PIRF | 10 | 0.5 (0.25) | 0.5 (0.25) | 1 (0.25) | 0.50% (0.25) | 100% |",
        "|  | PIDM | 10 | 1 (0.50) | 1 (0.50) | 2 (0.50) | 1.00% (0.50) | 100% |",
        "|  | CoCoGen | 10 | 0.1 (0.05) | 0.1 (0.05) | 0.2 (0.05) | 0.10% (0.05) | 100% |",
        "| Poisson | Baseline | 10 | 1 | 1 | 2 | 1.00% | 100% |",
    ]
    path = tmp_path / "README.md"
    path.write_text("a <!-- summary -->old<!-- /summary --> b")
    text = replace_tables(path, {"benchmark": "x", "summary": "new"})
    assert text == "a <!-- summary -->\nnew\n<!-- /summary --> b"


@pytest.mark.usefixtures("small_models")
def test_a_file_without_marks_is_left_alone(capsys):
    with open("README.md", "w") as file:
        file.write("no marks")
    assert run("evaluate", "--pde", "poisson", "--methods", "base", "--steps", "2", "--n", 2, "--json", "r.json") == 0
    capsys.readouterr()
    assert "README.md" in refused(capsys, "table", "r.json", "--into", "README.md")
    with open("README.md") as file:
        assert file.read() == "no marks"

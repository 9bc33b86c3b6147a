"""The command line from within a test."""

from pirf_app.cli import main


def run(*arguments) -> int:
    return main.main([str(a) for a in arguments])


def refused(capsys, *arguments) -> str:
    """The one sentence on standard error that `arguments` are refused with."""
    assert run(*arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    lines = error.splitlines()
    assert len(lines) == 1, error
    assert len(lines[0]) < 400
    assert "Traceback" not in error
    return lines[0]

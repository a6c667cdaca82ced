from __future__ import annotations

import subprocess
import sys

import pytest

from medseg.cli.help import HELP

HEAVY = ("torch", "monai", "lightning", "hydra", "omegaconf", "numpy", "rich", "pydantic")
COMMANDS = (
    "train", "prepare", "predict", "batch", "serve", "jobs", "evaluate", "ensemble", "doctor",
    "export", "phantom",
)  # fmt: skip


def medseg(*words, **options):
    command = [sys.executable, "-m", "medseg", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_programs_help_names_every_command_and_the_exit_codes(words):
    done = medseg(*words)

    assert done.returncode == 0
    assert done.stderr == ""
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout
    for code in ("0 done", "1 an error", "2 wrong usage", "3 some cases failed"):
        assert code in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("form", ["{} --help", "{} -h", "help {}"])
def test_a_commands_help_has_two_examples_at_least(command, form):
    done = medseg(*form.format(command).split())

    assert done.returncode == 0
    examples = done.stdout.split("Examples:")[1].split("Options used most")[0]
    assert examples.count(f"python -m medseg {command}") >= 2


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["nonsense"]])
def test_help_imports_nothing_heavy(words):
    script = (
        "import sys\n"
        "from medseg.cli.commands import main\n"
        f"main({words!r})\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr


def test_help_lines_fit_a_terminal():
    for command in COMMANDS:
        assert max(map(len, medseg(command, "--help").stdout.splitlines())) <= 100, command


def test_every_command_of_the_help_can_be_imported():
    import importlib

    for command in HELP:
        assert callable(importlib.import_module(f"medseg.cli.{command}").run)


def test_the_version_is_the_packages():
    import medseg as package

    assert medseg("--version").stdout == f"medseg {package.__version__}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "medseg has no command 'trian'; did you mean 'train'?"),
        (["xyz"], "medseg has no command 'xyz'; there are: train, prepare"),
        (["model=unet"], "the command comes first: python -m medseg <command> model=unet"),
        (["train", "--nonsense"], "--nonsense"),
        (["train", "--cfg", "nonsense"], "invalid choice"),
        (["train", "--experimental-rerun", "x.pickle"], "--experimental-rerun"),
    ],
)
def test_wrong_usage_is_told_in_one_line_with_exit_code_2(words, message):
    done = medseg(*words)

    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_public_names_are_imported_on_use_only():
    script = (
        "import sys, medseg\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "assert medseg.MedsegError.__name__ == 'MedsegError'\n"
        "assert 'torch' not in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_public_name_exists():
    import medseg as package

    missing = [name for name in package.__all__ if not hasattr(package, name)]

    assert missing == []
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = package.nonsense

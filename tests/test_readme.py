"""The README's commands fit the code, its files exist, and its exit codes are those of the code."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import medseg
from medseg.cli import commands, exit_codes
from medseg.cli.help import HELP

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
PROGRAM = "python -m medseg "


def command_lines() -> list[str]:
    """What the README's shell blocks call medseg with, comments left out."""
    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [part.removeprefix(PROGRAM) for part in parts if part.startswith(PROGRAM)]


def options_in_text() -> list[str]:
    """Options that the text names in passing, such as `fold=3`."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.DOTALL | re.MULTILINE)
    return [
        word for word in re.findall(r"`([^`]+)`", prose) if re.match(r"(-m )?[a-z_.]+=\S", word)
    ]


def test_the_readme_shows_every_command_but_phantom():
    assert {shlex.split(line)[0] for line in command_lines()} >= set(HELP) - {"phantom", "prepare"}


@pytest.mark.parametrize("line", command_lines())
def test_a_command_of_the_readme_fits_the_code(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    shows = {"--help", "--cfg"} & set(words)

    code = commands.main(words if shows else [*words, "dry_run=true"])

    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert shows or "fits the code" in printed.out


@pytest.mark.parametrize("option", options_in_text())
def test_an_option_that_the_text_names_fits_the_code(option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    code = commands.main(["train", "+experiment=liver", *shlex.split(option), "dry_run=true"])

    assert code == 0, capsys.readouterr().err


def test_the_python_of_the_readme_uses_public_names():
    (text,) = [text for language, text in BLOCKS if language == "python"]

    used = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "medseg"
    }

    assert used
    assert used <= set(medseg.__all__)


def test_every_public_name_is_there():
    assert all(getattr(medseg, name) is not None for name in medseg.__all__)


def test_the_documents_exist():
    named = re.findall(r"^- `([^`]+)`:", README, re.MULTILINE)

    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_exit_codes_are_those_of_the_code():
    codes = {int(number) for number in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}

    assert codes == {exit_codes.OK, exit_codes.ERROR, exit_codes.USAGE, exit_codes.SOME_FAILED}

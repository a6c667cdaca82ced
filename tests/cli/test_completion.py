"""Completion as a shell asks for it: Hydra's script, run by bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from medseg.cli.commands import main


def query(line, shell="bash"):
    done = subprocess.run(
        [sys.executable, "-m", "medseg", "-sc", f"query={shell}"],
        env={**os.environ, "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize("line", ["medseg ", "medseg tr"])
def test_the_first_word_is_a_command(line):
    assert "train" in query(line)
    assert "doctor" in query(line)


def test_options_and_groups_of_the_command_follow():
    assert "trainer=cpu" in query("medseg train trainer=c")
    assert "+experiment=liver" in query("medseg train +experiment=l")
    assert "trainer.max_epochs=" in query("medseg train trainer.max_e")
    assert "bundle=" in query("medseg predict bund")
    assert "folds=" in query("medseg ensemble fol")
    assert "start_from=" in query("medseg train start")
    assert query("medseg nonsense x") == []


def test_what_was_typed_before_counts():
    assert "trainer.limit_val_batches=" in query("medseg train trainer=debug trainer.limit_v")


def test_fish_gets_the_same():
    assert "trainer=cpu" in query("medseg train trainer=c", shell="fish")


@pytest.mark.parametrize("words", [["-sc", "install=bash"], ["train", "-sc", "install=bash"]])
def test_the_script_is_for_the_program_medseg(words):
    done = subprocess.run(
        [sys.executable, "-m", "medseg", *words], capture_output=True, text=True, check=True
    )

    assert done.stdout.rstrip().endswith(
        "complete -o nospace -o default -F hydra_bash_completion medseg"
    )


def test_without_a_shells_name_it_is_told_what_to_write():
    done = subprocess.run(
        [sys.executable, "-m", "medseg", "-sc"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 2
    assert 'eval "$(medseg -sc install=bash)"' in done.stderr


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_a_line(tmp_path):
    program = tmp_path / "medseg"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m medseg "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(medseg -sc install=bash)"
        COMP_LINE='medseg train trainer=c'; COMP_POINT=${#COMP_LINE}
        COMP_WORDS=(medseg train trainer=c); COMP_CWORD=2
        hydra_bash_completion
        echo "${COMPREPLY[@]}"
    """

    # The program's name, not python's: Hydra's completion looks at the file it finds on PATH.
    done = subprocess.run(
        ["bash", "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.split() == ["trainer=cpu"]


def test_a_shell_without_completion_is_told_in_one_line(capsys):
    assert main(["-sc", "install=tcsh"]) == 2

    told = capsys.readouterr().err
    assert told == "there is no completion for tcsh, only for bash, fish, zsh\n"

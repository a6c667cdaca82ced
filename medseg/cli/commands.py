"""From a command line to a command: arguments, configuration, checks, errors and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, NoReturn

from medseg import __version__
from medseg.cli.exit_codes import ERROR, OK, STOPPED, TERMINATED, USAGE
from medseg.cli.help import HELP, PROGRAM, command_help, program_help
from medseg.core.errors import MedsegError

if TYPE_CHECKING:
    from omegaconf import DictConfig


SHELLS = ("bash", "fish", "zsh")

_DRY_RUN = "The configuration is complete and fits the code; nothing was run (dry_run=true)."

Run = Callable[["DictConfig"], int]
Job = Callable[["DictConfig", Sequence[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit code.

    Args:
        arguments: what follows the program's name; `sys.argv[1:]` if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        return _stopped()
    except SystemExit as leaving:
        # Lightning answers Ctrl-C by leaving with code 1.
        if isinstance(leaving.__context__, KeyboardInterrupt):
            return _stopped()
        if type(leaving).__name__ == "SIGTERMException":  # Lightning's, once its loop has ended
            return _stopped(TERMINATED)
        raise
    except BrokenPipeError:
        # The reader left, as in `| head`; what Python still flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        return _report(error)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        command = words[1] if len(words) > 1 else ""
        print(command_help(command) if command in HELP else program_help(__version__))
        return OK
    if words[0] in ("--version", "-V"):
        print(f"medseg {__version__}")
        return OK
    if words[0] in ("-sc", "--shell-completion"):
        return _complete(words[1:])
    command, rest = words[0], words[1:]
    if command not in HELP:
        return _unknown_command(command)
    flags = _parse_flags(command, rest)
    flags.overrides = _named(command, flags.overrides)
    if flags.help:
        print(command_help(command))
        return OK
    if flags.shell_completion:
        return _complete(flags.overrides)
    return _run(command, flags)


def _unknown_command(command: str) -> int:
    close = get_close_matches(command, HELP, n=1)
    if close:
        remedy = f"did you mean '{close[0]}'?"
    elif "=" in command:
        remedy = f"the command comes first: {PROGRAM} <command> {command}"
    else:
        remedy = f"there are: {', '.join(HELP)}"
    print(f"medseg has no command '{command}'; {remedy}", file=sys.stderr)
    return USAGE


def _named(command: str, words: list[str]) -> list[str]:
    """The words of `jobs list` and `jobs show NAME` as options, as all other commands have them."""
    options = ("action", "job") if command == "jobs" else ()
    named = []
    for place, word in enumerate(words):
        is_bare = place < len(options) and "=" not in word
        named.append(f"{options[place]}={word}" if is_bare else word)
    return named


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{message}; see: {self.prog} --help", file=sys.stderr)
        raise SystemExit(USAGE)


def _parse_flags(command: str, words: Sequence[str]) -> argparse.Namespace:
    """The flags that medseg passes on to Hydra, and the options.

    Hydra's --experimental-rerun is left out: it unpickles a file.
    """
    parser = _Parser(prog=f"{PROGRAM} {command}", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    parser.add_argument("--resolve", action="store_true")
    parser.add_argument("--package", "-p")
    parser.add_argument("--multirun", "-m", action="store_true")
    parser.add_argument(
        "--info",
        "-i",
        nargs="?",
        const="all",
        choices=["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
    )
    parser.add_argument("--shell-completion", "-sc", action="store_true")
    parser.add_argument("--hydra-help", action="store_true")
    parser.add_argument("overrides", nargs="*")
    return parser.parse_intermixed_args(words)


def _run(command: str, flags: argparse.Namespace) -> int:
    """Composes and checks, then lets Hydra run the job or jobs."""
    from medseg.cli.folders import require_usable
    from medseg.cli.logs import silence_known_warnings, start_logging
    from medseg.config.check import check
    from medseg.config.compose import compose, first_of_sweep

    silence_known_warnings()
    composition = compose(
        command, first_of_sweep(flags.overrides) if flags.multirun else flags.overrides
    )
    if flags.cfg or flags.info or flags.hydra_help:
        for problem in composition.problems:
            raise problem
        return _run_hydra(command, flags, lambda config, options: OK)

    def job(config: DictConfig, options: Sequence[str]) -> int:
        if not flags.multirun:
            return _command(command)(composition.config)
        print(f"\n{command} {' '.join(options)}")
        own = replace(composition, config=config)
        check(own, command=command, chosen=options)
        if config.dry_run:
            print(_DRY_RUN)
            return OK
        return _command(command)(config)

    check(composition, command=command, chosen=flags.overrides)
    if composition.config.dry_run and not flags.multirun:
        print(_DRY_RUN)
        return OK
    require_usable(composition, command=command)
    start_logging()
    return _run_hydra(command, flags, job)


def _run_hydra(command: str, flags: argparse.Namespace, job: Job) -> int:
    """Runs a job once or for each combination of a sweep, and returns the highest exit code."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from medseg.config.compose import VERSION_BASE, conf_dir, register_project_conf

    program = sys.argv[0]
    codes: list[int] = []
    errors: list[Exception] = []

    def task(config: DictConfig) -> None:
        options = list(HydraConfig.get().overrides.task)
        # Lightning starts DDP workers by running sys.argv again: it must hold this job's options.
        sys.argv = [program, command, *options]
        try:
            codes.append(job(config, options))
        except Exception as error:  # Hydra would print it its own way
            if flags.multirun:
                codes.append(_report(error))
            else:
                errors.append(error)

    register_project_conf()
    saved = sys.argv
    sys.argv = [program, *_hydra_flags(flags), *flags.overrides]
    try:
        hydra.main(config_path=str(conf_dir()), config_name=command, version_base=VERSION_BASE)(
            task
        )()
    finally:
        sys.argv = saved
    for error in errors:
        raise error
    return max(codes, default=OK)


def _hydra_flags(flags: argparse.Namespace) -> list[str]:
    words = ["--multirun"] * flags.multirun + ["--resolve"] * flags.resolve
    words += ["--hydra-help"] * flags.hydra_help
    for name in ("cfg", "package", "info"):
        value = getattr(flags, name)
        words += [f"--{name}", value] if value else []
    return words


def _command(name: str) -> Run:
    """The function behind a command; importing it may take seconds."""
    run: Run = importlib.import_module(f"medseg.cli.{name}").run
    return run


def _complete(words: Sequence[str]) -> int:
    """Hydra's shell completion, for a program whose first word is a command.

    `install=bash` prints a script to evaluate; the shell then calls with `query=bash` and the line
    in COMP_LINE.
    """
    import hydra

    from medseg.config.compose import VERSION_BASE, conf_dir, register_project_conf

    command = "train"
    if any(word.startswith("query=") for word in words):
        line = os.environ.get("COMP_LINE", "")
        typed = line.split()
        if len(typed) < 2 or (len(typed) == 2 and not line.endswith(" ")):
            print("\n".join(HELP))
            return OK
        command = typed[1]
        if command not in HELP:
            return OK
        os.environ["COMP_LINE"] = line.replace(f" {command} ", " ", 1)
    elif not any(word.startswith(("install=", "uninstall=")) for word in words):
        print('write: eval "$(medseg -sc install=bash)"', file=sys.stderr)
        return USAGE
    for word in words:
        shell = word.rpartition("=")[2]
        if shell not in SHELLS:
            print(
                f"there is no completion for {shell}, only for {', '.join(SHELLS)}", file=sys.stderr
            )
            return USAGE
    register_project_conf()
    saved = sys.argv
    sys.argv = ["medseg", "-sc", *words]
    try:
        hydra.main(config_path=str(conf_dir()), config_name=command, version_base=VERSION_BASE)(
            lambda config: None
        )()
    finally:
        sys.argv = saved
    return OK


def _report(error: Exception) -> int:
    """Prints an error for the person at the keyboard and returns the exit code."""
    if isinstance(error, MedsegError) and os.environ.get("HYDRA_FULL_ERROR") != "1":
        print(error, file=sys.stderr)
        return ERROR
    traceback.print_exception(error)
    if not isinstance(error, MedsegError):
        print(
            "\nThis is a fault in medseg, not in what you typed. Please report it with the lines "
            f"above and the output of: {PROGRAM} doctor",
            file=sys.stderr,
        )
    return ERROR


def _stopped(code: int = STOPPED) -> int:
    print("\nstopped", file=sys.stderr)
    return code

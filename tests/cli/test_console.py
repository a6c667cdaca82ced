import io
import logging
import sys
from types import SimpleNamespace

import torch
from rich.console import Console

from medseg.cli import console, logs
from medseg.training.callbacks import LOG_EVERY_S, ProgressLine


class Terminal(io.StringIO):
    def isatty(self):
        return True


def record(message):
    return logging.LogRecord("medseg.some", logging.INFO, "", 0, message, None, None)


def test_a_pipe_gets_no_bar(capsys):
    with console.counting("reading cases", 3) as count:
        count()
        count.start(4)

    assert capsys.readouterr() == ("", "")


def test_long_work_without_a_terminal_says_in_the_log_how_far_it_is(monkeypatch, caplog):
    now = iter([0.0, 10.0, 31.0, 40.0, 92.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))

    with caplog.at_level(logging.INFO), console.counting("reading cases", 6) as count:
        for _ in range(4):
            count()

    assert [record.getMessage() for record in caplog.records] == [
        "reading cases: 2 of 6, about 1.0 min left",
        "reading cases: 4 of 6, about 0.8 min left",
    ]


def test_a_terminal_gets_a_bar_with_its_count(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(console, "console", Console(file=terminal, force_terminal=True, width=80))

    with console.counting("scoring") as count:
        count.start(4)
        count()

    assert "1/4" in terminal.getvalue()


def test_log_lines_go_through_what_replaces_the_error_output(monkeypatch):
    terminal, above_the_bar = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    handler = logs._Terminal()
    handler.emit(record("before"))
    monkeypatch.setattr(sys, "stderr", above_the_bar)

    handler.emit(record("meanwhile"))

    assert terminal.getvalue() == "before\n"
    assert above_the_bar.getvalue() == "meanwhile\n"


def test_log_lines_stay_in_the_file_that_the_error_output_goes_to(monkeypatch):
    file, bar = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    handler = logs._Terminal()
    monkeypatch.setattr(sys, "stderr", bar)

    handler.emit(record("for the file"))

    assert file.getvalue() == "for the file\n"
    assert bar.getvalue() == ""


def test_log_lines_cannot_steer_the_terminal():
    assert logs._Printable("%(message)s").format(record("a\x1b[2Jb")) == "a\\x1b[2Jb"


def test_without_a_terminal_training_writes_a_line_now_and_then(caplog, capsys):
    caplog.set_level(logging.INFO, "medseg")
    trainer = SimpleNamespace(is_global_zero=True, global_step=10, current_epoch=0)
    module = SimpleNamespace(
        progress=0.0,
        max_time_s=20.0,
        elapsed_s=5.0,
        scores={"liver": 0.5},
        scored_cases=(2, 2),
        task=SimpleNamespace(score_name="dice"),
    )
    line = ProgressLine()

    line.on_train_start(trainer, module)
    line._first = (line._first[0] - 1000, 0.0)  # the first steps took long
    module.progress = 0.25
    for _ in range(3):  # epochs within LOG_EVERY_S
        line.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.5)})
        line.on_train_epoch_end(trainer, module)
    message = "epoch 1: step 10 loss 1.500 Dice liver 0.500, 0:00:15 left"
    assert caplog.messages == [message]

    line._last_line -= LOG_EVERY_S  # a long epoch
    line.on_train_batch_end(trainer, module, {"loss": torch.tensor(1.5)})
    line.on_train_end(trainer, module)

    assert caplog.messages == [message, message]
    assert capsys.readouterr().out == ""


def test_a_bar_moves_within_a_case_and_counts_whole_ones(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(console, "console", Console(file=terminal, force_terminal=True, width=80))

    with console.counting("predicting", 2) as count:
        count.share(0.5)
        count.next()
        count.share(0.9)
        bar = count._bar.tasks[0]
        assert bar.completed == 1.9
        count.next()

    assert "2/2" in terminal.getvalue()

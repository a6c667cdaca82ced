import threading
from dataclasses import replace
from pathlib import Path

import phantoms
import pytest
from learning_cases import block, case_of

from medseg.core.errors import InputError, MedsegError, OutputError
from medseg.core.identity import Case
from medseg.core.segmentation import LabelMap
from medseg.inference.cases import Segmented, predict_cases
from medseg.writers.dicom_seg import DicomSegWriter


class Threshold:
    """A predictor that fails on demand."""

    def __init__(self, failures: dict[str, Exception] | None = None) -> None:
        self.failures = failures or {}

    def predict(self, case: Case) -> LabelMap:
        volume = case.read_image()
        if case.key in self.failures:
            raise self.failures[case.key]
        return LabelMap((volume.array[0] > 150).astype("uint8"), volume.geometry)


class Notes:
    """A writer of one line per case."""

    def write(self, result, case, *, folder: Path) -> list[Path]:
        folder.mkdir(exist_ok=True)
        path = folder / f"{case.key}.txt"
        path.write_text(str(int(result.array.sum())))
        return [path]


def cases(count: int = 3) -> list[Case]:
    return [case_of(*block(n), key=f"case_{n}") for n in range(count)]


def test_every_case_is_predicted_and_written_in_order(tmp_path):
    done = []

    outcomes = predict_cases(
        Threshold(), cases(), writers=[Notes()], folder=tmp_path, on_done=done.append
    )

    assert [outcome.key for outcome in outcomes] == ["case_0", "case_1", "case_2"]
    assert done == outcomes
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.result is None
        assert outcome.paths == (tmp_path / f"{outcome.key}.txt",)
        assert int(outcome.paths[0].read_text()) > 0


def test_results_are_kept_if_asked_for(tmp_path):
    (outcome,) = predict_cases(
        Threshold(), cases(1), writers=[], folder=tmp_path, keeps_results=True
    )

    assert outcome.result is not None
    assert (
        outcome.result.geometry.difference(
            phantoms.grid(shape=(16, 14, 12), spacing_mm=(1.0, 1.25, 2.0))
        )
        is None
    )


def test_each_image_is_read_once(tmp_path):
    reads = []

    def counted(case: Case) -> Case:
        def read():
            reads.append(case.key)
            return case.read_image()

        return replace(case, read_image=read)

    predict_cases(Threshold(), [counted(case) for case in cases()], writers=[], folder=tmp_path)

    assert reads == ["case_0", "case_1", "case_2"]


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (InputError("image", "is odd", "mend it"), "E_INPUT", "image: is odd; mend it"),
        (MemoryError(), "E_MEMORY", "case_1: does not fit into the memory; set inference.memory"),
        (
            RuntimeError("CUDA out of memory. Tried"),
            "E_MEMORY",
            "memory_budget_gib to what is free",
        ),
        (ValueError("Mr LEAK^TEST"), "E_PREDICTION", "case_1: failed with ValueError in test_cas"),
        (KeyError("LEAK^TEST"), "E_PREDICTION", "please report it"),
    ],
)
@pytest.mark.parametrize("place", ["reading", "predicting", "writing"])
def test_a_case_that_fails_does_not_stop_the_others(tmp_path, place, failure, code, message):
    several, predictor, writer = cases(), Threshold(), Notes()

    def fail(*_, **__):
        raise failure

    if place == "reading":
        several[1] = replace(several[1], read_image=fail)
    elif place == "predicting":
        predictor.failures["case_1"] = failure
    else:
        write = writer.write
        writer.write = lambda result, case, *, folder: (
            fail() if case.key == "case_1" else write(result, case, folder=folder)
        )

    first, second, third = predict_cases(predictor, several, writers=[writer], folder=tmp_path)

    assert first.error is None
    assert third.error is None
    assert isinstance(second.error, MedsegError)
    assert second.error.code == code
    assert message in str(second.error)
    assert "LEAK" not in str(second.error)


def test_a_case_that_a_writer_cannot_write_is_told_of_before_it_is_segmented(tmp_path):
    unused = Threshold({"case_0": AssertionError("was segmented")})

    (outcome,) = predict_cases(
        unused, cases(1), writers=[Notes(), DicomSegWriter()], folder=tmp_path / "out"
    )

    assert outcome.error.what.startswith("is no DICOM series")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_for_each_case(tmp_path):
    class FullDisk:
        def write(self, result, case, *, folder: Path) -> list[Path]:
            raise OutputError(folder, "cannot be written (No space left)", "free some room")

    outcomes = predict_cases(Threshold(), cases(2), writers=[FullDisk()], folder=tmp_path)

    assert [str(outcome.error).count("free some room") for outcome in outcomes] == [1, 1]


class Prepared(Threshold):
    """A predictor whose images are prepared ahead; it notes what happens when."""

    def __init__(self, events: list[str], *, patience_s: float) -> None:
        super().__init__()
        self.events = events
        self.patience_s = patience_s
        self.num_prepared = threading.Semaphore(0)

    def prepare(self, volume):
        self.events.append("prepare")
        self.num_prepared.release()
        return volume

    def segment_prepared(self, prepared, *, wants):
        self.num_prepared.acquire()
        self.events.append("begin")
        if self.num_prepared.acquire(timeout=self.patience_s):  # waits for the next one
            self.num_prepared.release()
        self.events.append("end")
        return Segmented(LabelMap((prepared.array[0] > 150).astype("uint8"), prepared.geometry))


def test_the_next_image_is_prepared_while_one_is_predicted(tmp_path):
    events: list[str] = []

    predictor = Prepared(events, patience_s=2)

    outcomes = predict_cases(predictor, cases(), writers=[Notes()], folder=tmp_path)

    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert events.index("prepare", events.index("prepare") + 1) < events.index("end")


def test_one_case_after_the_other_keeps_one_in_memory(tmp_path):
    events: list[str] = []

    class Noting(Notes):
        def write(self, result, case, *, folder):
            events.append("write")
            return super().write(result, case, folder=folder)

    predict_cases(
        Prepared(events, patience_s=0.1),
        cases(),
        writers=[Noting()],
        folder=tmp_path,
        overlaps=False,
    )

    assert events == ["prepare", "begin", "end", "write"] * 3

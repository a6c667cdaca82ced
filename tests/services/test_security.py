"""What a hostile sender or file may try: each is refused, and nothing is written elsewhere."""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from service_cases import CANARY, Threshold, ct_study, recipe, tiny_bundle

from medseg.cli.commands import main
from medseg.core.errors import BundleError
from medseg.services.desk import listed
from medseg.services.executors import LocalExecutor
from medseg.services.intake import receive_studies
from medseg.services.ledger import Ledger
from medseg.services.workplace import Workplace

OWNED: list[str] = []


class Payload:
    def __reduce__(self):
        return (OWNED.append, ("pickle",))


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle(tmp_path / "bundle")


def refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What batch says of a bundle; it must end with an error and write nothing."""
    ct_study(tmp_path / "in" / "study", 0)
    before = tree(tmp_path)
    code = main(
        [
            "batch",
            f"bundle={bundle}",
            f"source.folder={tmp_path / 'in'}",
            f"paths.output={tmp_path / 'out'}",
            f"paths.ledger={tmp_path / 'state' / 'ledger.sqlite'}",
            "executor.disk_reserve_gb=0",
        ]
    )
    assert code == 1
    assert OWNED == []
    new = {path.relative_to(tmp_path).parts[0] for path in tree(tmp_path) - before}
    assert new <= {"state"}
    return capsys.readouterr().err


def tree(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def rewrite_card(bundle: Path, change) -> None:
    card = yaml.safe_load((bundle / "card.yaml").read_text())
    change(card)
    (bundle / "card.yaml").write_text(yaml.safe_dump(card))


def test_changed_weights_are_refused(bundle, tmp_path, capsys):
    path = next((bundle / "weights").iterdir())
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")

    assert "sha256" in refused(bundle, tmp_path, capsys)


def test_a_pickled_model_is_refused(bundle, tmp_path, capsys):
    path = next((bundle / "weights").iterdir())
    path.unlink()
    pickled = bundle / "weights" / "fold_0.pt"
    torch.save({"weights": Payload()}, pickled)
    digest = hashlib.sha256(pickled.read_bytes()).hexdigest()

    def change(card):
        card["sha256"].pop(f"weights/{path.name}")
        card["sha256"]["weights/fold_0.pt"] = digest

    rewrite_card(bundle, change)
    assert pickle.dumps(Payload())  # the payload itself is sound

    assert "does not fit the network" in refused(bundle, tmp_path, capsys)


@pytest.mark.parametrize("target", ["os.system", "medseg.bundle.hashlib.sys.exit", "torch.load"])
def test_a_bundle_that_names_other_code_is_never_built(bundle, tmp_path, target):
    rewrite_card(bundle, lambda card: card["network"].update({"class": target}))
    place = Workplace(
        Ledger(tmp_path / "ledger.sqlite"),
        {"model": recipe(bundle)},
        tmp_path / "out",
        tmp_path / "work",
    )
    ct_study(tmp_path / "in" / "study", 0)
    receive_studies(
        tmp_path / "in", ledger=place.ledger, models=list(place.models.values()), reading={}
    )
    with pytest.raises(BundleError, match=r"allowed packages|may name"):
        LocalExecutor(disk_reserve_gb=0).run(place, stop=threading.Event(), until_empty=True)

    # The study is not to blame and waits for a model that can be used.
    assert [job.state for job in listed(place.ledger)] == ["received"]
    assert tree(tmp_path / "out") == set()


def test_a_tag_of_yaml_runs_nothing(bundle, tmp_path, capsys):
    card = (bundle / "card.yaml").read_text()
    (bundle / "card.yaml").write_text(
        card + "\nextra: !!python/object/apply:os.system ['touch owned']\n"
    )

    assert "is no plain YAML" in refused(bundle, tmp_path, capsys)
    assert not (Path.cwd() / "owned").exists()


@pytest.mark.parametrize(
    "option",
    [
        "output.dicom_seg._target_=os.system",
        "executor._target_=logging.os.system",
        "+inference.model._target_=torch.load",
    ],
)
def test_an_option_that_names_other_code_is_refused(bundle, tmp_path, capsys, option):
    code = main(["batch", f"bundle={bundle}", f"source.folder={tmp_path}", option, "dry_run=true"])

    assert code == 1
    assert "may name" in capsys.readouterr().err


def test_hostile_archives_and_links_write_and_read_nothing_outside(bundle, tmp_path):
    inbox = tmp_path / "in"
    inbox.mkdir()
    secret = ct_study(tmp_path / "elsewhere", 5)
    with zipfile.ZipFile(inbox / "slip.zip", "w") as archive:
        archive.writestr("../../escaped.dcm", secret[0].read_bytes())
    with zipfile.ZipFile(inbox / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(40_000_000))
    with zipfile.ZipFile(inbox / "absolute.zip", "w") as archive:
        archive.writestr("/tmp/escaped.dcm", secret[0].read_bytes())
    (inbox / "linked").symlink_to(tmp_path / "elsewhere")
    (inbox / "study").mkdir()
    (inbox / "study" / "link.dcm").symlink_to(secret[0])
    os.mkfifo(inbox / "study" / "pipe.dcm")
    ct_study(inbox / "good", 1)
    before = tree(tmp_path)
    place = Workplace(
        Ledger(tmp_path / "state" / "ledger.sqlite"),
        {"model": recipe(bundle)},
        tmp_path / "out",
        tmp_path / "state" / "work",
        build_predictor=lambda made, options: Threshold(),
    )
    receive_studies(inbox, ledger=place.ledger, models=list(place.models.values()), reading={})
    LocalExecutor(disk_reserve_gb=0).run(place, stop=threading.Event(), until_empty=True)

    found = {Path(job.source["path"]).name: (job.state, job.code) for job in listed(place.ledger)}
    assert found == {
        "slip.zip": ("quarantined", "E_ARCHIVE"),
        "bomb.zip": ("quarantined", "E_ARCHIVE"),
        "absolute.zip": ("quarantined", "E_ARCHIVE"),
        "linked": ("quarantined", "E_NO_IMAGES"),
        "study": ("quarantined", "E_NO_IMAGES"),
        "good": ("done", ""),
    }
    new = {path.relative_to(tmp_path).parts[0] for path in tree(tmp_path) - before}
    assert new == {"out", "state"}
    assert not Path("/tmp/escaped.dcm").exists()


def test_no_error_of_a_job_quotes_the_patient(bundle, tmp_path):
    paths = ct_study(tmp_path / "in" / "study", 1)
    for number, path in enumerate(paths):
        path.rename(path.with_name(f"{CANARY}-ID001_{number}.dcm"))
    (paths[0].parent / f"{CANARY}-ID001_3.dcm").unlink()

    class Talkative(Threshold):
        def predict(self, case):
            raise ValueError(f"the patient is {CANARY}^NAME001")

    place = Workplace(
        Ledger(tmp_path / "ledger.sqlite"),
        {"model": recipe(bundle)},
        tmp_path / "out",
        tmp_path / "work",
        build_predictor=lambda made, options: Talkative(),
    )
    ct_study(tmp_path / "in" / "other", 2)
    receive_studies(
        tmp_path / "in", ledger=place.ledger, models=list(place.models.values()), reading={}
    )
    LocalExecutor(disk_reserve_gb=0).run(place, stop=threading.Event(), until_empty=True)

    jobs = listed(place.ledger)
    assert sorted(job.code for job in jobs) == ["E_PREDICTION", "E_SLICE_GAP"]
    assert CANARY not in "".join(job.sentence + job.name + job.note for job in jobs)
    assert CANARY not in "".join(place.ledger.events(limit=10**6))

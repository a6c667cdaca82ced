"""What a training shows of itself in a browser: its own page, and TensorBoard."""

from __future__ import annotations

from pathlib import Path

import nibabel
import phantoms
import pytest
from browser import LOOKS, PATIENCE_MS, Complaints, chromium, faint, overflowing, shown
from command_line import medseg_main
from playwright.sync_api import expect
from tensorboard import program

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a training of two epochs on three small CT images."""
    root = tmp_path_factory.mktemp("seen")
    for name in ("images", "labels"):
        (root / "data" / name).mkdir(parents=True)
    for n in range(3):
        reference = phantoms.labelled_boxes(orientation="LPS", centre_mm=(10.0 + 3 * n, -20, 30))
        arrays = {"images": phantoms.ct_of(reference, seed=n).array[0], "labels": reference.array}
        for name, array in arrays.items():
            image = nibabel.Nifti1Image(array, reference.geometry.affine)
            nibabel.save(image, root / "data" / name / f"box_{n}.nii.gz")
    code = medseg_main(
        [
            "train", "data=folder", f"data.source.folder={root / 'data'}", "data.modality=CT",
            "data.labels={background: 0, liver: 1, tumour: 2}", "data.num_folds=3", "trainer=cpu",
            "trainer.max_epochs=2", "loader.steps_per_epoch=2", "name=seen",
            "plan.patch_size=[16,16,8]", "plan.base_channels=4", "plan.batch_size=2",
            "augment=none", f"paths.runs={root / 'runs'}", f"paths.cache={root / 'cache'}",
        ]
    )  # fmt: skip
    assert code == 0
    (page,) = (root / "runs").glob("**/run.html")
    return page.parent


def test_the_page_of_a_training_is_shown_without_complaint_and_read_by_keyboard(run):
    url = (run / "run.html").as_uri()

    with chromium() as browser:
        for width, scheme in LOOKS:
            with shown(browser, url, width=width, scheme=scheme) as (page, complaints):
                pictures = page.locator("#samples img, #data img")

                assert pictures.count() > 2
                assert all(pictures.evaluate_all("all => all.map((one) => one.naturalWidth > 0)"))
                assert page.locator("#curves svg polyline").count() >= 4
                assert complaints == Complaints(), (width, scheme)
                assert overflowing(page) == [], (width, scheme)
                assert faint(page) == [], (width, scheme)

        with shown(browser, url) as (page, complaints):
            page.keyboard.press("Tab")
            expect(page.get_by_text("Skip to the content")).to_be_focused(timeout=PATIENCE_MS)
            page.keyboard.press("Tab")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")  # the second entry of the menu
            page.wait_for_url("**#curves")
            expect(page.locator("#curves")).to_be_in_viewport(timeout=PATIENCE_MS)

            colour = "() => getComputedStyle(document.body).backgroundColor"
            before = page.evaluate(colour)
            page.locator("#theme").focus()
            page.keyboard.press("Enter")
            assert page.evaluate(colour) != before
            assert complaints == Complaints()


@pytest.fixture(scope="module")
def tensorboard(run: Path) -> str:
    """Address of a TensorBoard over the training; its thread ends with the tests."""
    board = program.TensorBoard()
    board.configure(
        argv=[
            "tensorboard", f"--logdir={run}", "--host=127.0.0.1", "--port=0",
            "--load_fast=false", "--reload_interval=0",
        ]
    )  # fmt: skip
    return board.launch()


def test_tensorboard_shows_curves_pictures_texts_and_options(tensorboard):
    with chromium() as browser, shown(browser, tensorboard) as (page, complaints):
        for title in ("dice/liver", "dice/mean"):
            page.locator(f"scalar-card [title='{title}']").first.wait_for()

        page.goto(f"{tensorboard}#text")
        page.get_by_text("patch_size: [16, 16, 8]").first.wait_for()

        page.goto(f"{tensorboard}#hparams")
        page.get_by_text("loader/steps_per_epoch").first.wait_for()

        for width, scheme in LOOKS:
            page.set_viewport_size({"width": width, "height": 1000})
            page.emulate_media(color_scheme=scheme)
            page.goto(f"{tensorboard}#images")
            picture = page.locator("tf-image-loader img").first
            picture.wait_for()
            assert picture.evaluate("one => one.decode().then(() => one.naturalWidth)") > 100
            assert overflowing(page) == [], (width, scheme)

        # Its own scripts warn of each other; errors would be about what they were given.
        assert [text for text in complaints.said if not text.startswith("warning")] == []
        assert complaints.asked == []

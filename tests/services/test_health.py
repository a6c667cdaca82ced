from __future__ import annotations

import io
import json
import re
import socket
import urllib.error
import urllib.request

import numpy as np
import phantoms
import pytest
from browser import Complaints, chromium, shown
from learning_cases import block
from PIL import Image

from medseg.core.identity import Case
from medseg.inference.cases import Segmented
from medseg.services.health import HealthServer
from medseg.services.jobs import NewJob, job_key
from medseg.services.ledger import Ledger
from medseg.services.overlays import Overlays


@pytest.fixture
def served(tmp_path):
    """A server over a ledger with one job in each of three states; `.reason` makes it not ready."""
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number in range(3):
        ledger.receive(NewJob("series", job_key(number), f"case_{number}", {}))
    ledger.written(ledger.lease("w", lease_s=60), [], deliver=False, details={"seconds": 2.5})
    ledger.quarantine(ledger.lease("w", lease_s=60), code="E_SLICE_GAP", sentence="a gap")
    overlays = Overlays(tmp_path / "overlays", count=2)
    server = HealthServer(
        ledger,
        host="127.0.0.1",
        port=0,
        reason_not_ready=lambda: server.reason,
        numbers=lambda: {"associations": 3},
        overlays=overlays,
        names=["medseg.ward"],
    )
    server.reason = ""
    server.start()
    yield server
    server.stop()
    ledger.close()


def get(server, path, **headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=headers)
    try:
        with opener.open(asked, timeout=20) as answer:
            return answer.status, dict(answer.headers), answer.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def draw(server, number):
    image, reference = block(number, modality="CT")
    server.ledger.receive(NewJob("series", job_key("o", number), f"drawn_{number}", {}))
    job = server.ledger.jobs(name=f"drawn_{number}")[0]
    server.overlays.draw(job, Segmented(reference), Case(job.name, lambda: image))


def test_alive_and_ready_are_told_apart(served):
    assert get(served, "/healthz")[0] == 200
    assert get(served, "/readyz")[0] == 200

    served.reason = "the disk or the queue is full"

    assert get(served, "/healthz")[0] == 200
    status, _, text = get(served, "/readyz")
    assert (status, text) == (503, "not ready: the disk or the queue is full\n")


def test_figures_are_text_for_prometheus(served):
    status, headers, text = get(served, "/metrics")

    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert samples['medseg_jobs{state="done"}'] == "1"
    assert samples['medseg_jobs{state="received"}'] == "1"
    assert samples['medseg_quarantined{code="E_SLICE_GAP"}'] == "1"
    assert samples['medseg_job_seconds{quantile="0.5"}'] == "2.5"
    assert samples["medseg_intake_associations"] == "3"
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) \w+ .+|\w+(\{\w+=\"[^\"]*\"\})? [-+.e\d]+", line), line


def test_pictures_of_the_last_results_are_kept_and_no_other_file_is_served(served, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    for number in range(3):
        draw(served, number)

    names = json.loads(get(served, "/status.json")[2])["overlays"]

    assert len(names) == 2
    assert get(served, f"/overlays/{names[0]}")[1]["Content-Type"] == "image/png"
    for path in ("/overlays/../secret.png", "/overlays/%2e%2e/secret.png", "/ledger.sqlite"):
        assert get(served, path)[0] == 404


def test_a_page_may_load_nothing_from_elsewhere_and_changes_nothing(served):
    _, headers, page = get(served, "/")

    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert "http" not in page.replace("</html>", "")
    for method in ("POST", "PUT", "DELETE"):
        request = urllib.request.Request(f"http://127.0.0.1:{served.port}/", b"", method=method)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)
        assert caught.value.code == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", 200),
        ("10.0.3.7", 200),
        ("[::1]:8080", 200),
        ("MEDSEG.ward:80", 200),
        ("rebound.example.org", 421),
        ("127.0.0.1.example.org:8080", 421),
        ("localhost.example.org", 421),
        ("127.0.0.1@example.org", 421),
        ("[", 421),
    ],
)
def test_nothing_is_told_to_who_asks_by_a_strange_name(served, host, status):
    answer = get(served, "/status.json", Host=host)

    assert answer[0] == status
    assert ("E_SLICE_GAP" in answer[2]) == (status == 200)
    assert ("health_names" in answer[2]) == (status == 421)


def test_a_connection_that_says_nothing_does_not_hold_others_up(served):
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(40)]

    assert get(served, "/healthz")[0] == 200
    for connection in idle:
        connection.close()


@pytest.mark.slow
def test_a_browser_shows_queue_failures_throughput_and_pictures(served):
    draw(served, 0)
    url = f"http://127.0.0.1:{served.port}/"

    with chromium() as browser, shown(browser, url, width=900) as (page, complaints):
        page.locator("#state.ok").wait_for()
        page.locator("#overlays img").first.evaluate("picture => picture.decode()")
        text = " ".join(page.locator("body").inner_text().split())
        picture = page.screenshot(full_page=True)

    assert complaints == Complaints()
    assert "medseg ready" in text
    assert "done 1" in text
    assert "quarantined 1" in text
    assert "E_SLICE_GAP 1" in text
    assert "In the last hour: 1 jobs" in text
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    colours = [np.array(label.rgb) for label in phantoms.TWO_LABELS.foreground]
    # The outlines of the classes are on the page, in their colours.
    for colour in colours:
        assert (np.abs(pixels - colour).max(axis=-1) < 12).sum() > 20

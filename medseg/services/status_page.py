"""The status page: one page that asks for the figures every few seconds and shows them."""

from __future__ import annotations

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>medseg</title>
<link rel="icon" href="/status.svg">
<link rel="stylesheet" href="/status.css">
<script src="/status.js" defer></script>
</head>
<body>
<h1>medseg <span id="state" role="status">asking</span></h1>
<section><h2>Queue</h2>
<table id="states"><caption>Jobs in each state</caption><tbody></tbody></table>
<p>Oldest open job: <b id="oldest">-</b></p></section>
<section><h2>Throughput</h2>
<p>In the last hour: <b id="hour">-</b> jobs; half of the last took less than <b id="p50">-</b>,
95 % less than <b id="p95">-</b></p></section>
<section><h2>Set aside</h2>
<table id="codes"><caption>Jobs by code; see: medseg jobs list</caption><tbody></tbody></table>
</section>
<section><h2>On the way out</h2>
<table id="deliveries"><caption>Results by delivery</caption><tbody></tbody></table></section>
<section><h2>Last results</h2><p>Not for diagnosis.</p><div id="overlays"></div></section>
</body>
</html>
"""

STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem; }
h1 #state { font-size: 1rem; padding: .2rem .6rem; border-radius: .3rem; background: #ddd; }
h1 #state.ok { background: #c8e6c9; } h1 #state.bad { background: #ffcdd2; }
table { border-collapse: collapse; } caption { text-align: left; color: #555; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ccc; }
td { text-align: right; font-variant-numeric: tabular-nums; }
#overlays img { max-width: 100%; margin: .3rem 0; display: block; background: #000; }
"""

ICON = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<circle cx="8" cy="8" r="7" fill="#0b6b74"/><circle cx="9.5" cy="9" r="3" fill="#fff"/>
</svg>
"""

SCRIPT = """\
"use strict";
const byId = (id) => document.getElementById(id);
const time = (s) => s < 120 ? s.toFixed(1) + " s"
  : s < 7200 ? (s / 60).toFixed(0) + " min" : (s / 3600).toFixed(1) + " h";

function fill(id, counts) {
  const body = byId(id).tBodies[0];
  body.replaceChildren();
  for (const [name, count] of Object.entries(counts)) {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    row.append(head);
    row.insertCell().textContent = String(count);
  }
  if (!body.rows.length) body.insertRow().insertCell().textContent = "none";
}

function show(status) {
  fill("states", status.states);
  fill("codes", status.codes);
  fill("deliveries", status.deliveries);
  byId("oldest").textContent = time(status.oldest_open_s);
  byId("hour").textContent = String(status.last_hour);
  byId("p50").textContent = time(status.seconds_p50);
  byId("p95").textContent = time(status.seconds_p95);
  const box = byId("overlays");
  const have = Array.from(box.children, (image) => image.dataset.name);
  if (have.join() !== status.overlays.join()) {
    box.replaceChildren(...status.overlays.map((name, number) => {
      const image = new Image();
      image.dataset.name = name;
      image.alt = "Outlines of result " + (number + 1) + " over three planes";
      image.src = "/overlays/" + name;
      return image;
    }));
  }
  byId("state").textContent = status.ready ? "ready" : "not ready: " + status.reason;
  byId("state").className = status.ready ? "ok" : "bad";
}

async function ask() {
  try {
    show(await (await fetch("/status.json", { cache: "no-store" })).json());
  } catch (error) {
    byId("state").textContent = "does not answer";
    byId("state").className = "bad";
  }
  setTimeout(ask, 3000);
}
ask();
"""

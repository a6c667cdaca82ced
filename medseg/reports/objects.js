"use strict";
// Outlines of objects, each along the inside of its own border, so that touching ones stay apart.

// Closed lines around the pixels of each number: half-way points of the pixels' edges in turn.
function outlinesOf(width, height, at) {
  const found = new Map();
  const edge = (number, x1, y1, x2, y2) => {
    if (!found.has(number)) found.set(number, new Map());
    const starts = found.get(number);
    const key = y1 * (width + 1) + x1;
    const ends = starts.get(key);
    if (ends) ends.push([x1, y1, x2, y2]);
    else starts.set(key, [[x1, y1, x2, y2]]);
  };
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const number = at(x, y);
      if (!number) continue;
      // Clockwise, the object on the right hand.
      if (at(x, y - 1) !== number) edge(number, x, y, x + 1, y);
      if (at(x + 1, y) !== number) edge(number, x + 1, y, x + 1, y + 1);
      if (at(x, y + 1) !== number) edge(number, x + 1, y + 1, x, y + 1);
      if (at(x - 1, y) !== number) edge(number, x, y + 1, x, y);
    }
  }
  const lines = new Map();
  for (const [number, starts] of found) {
    const loops = [];
    for (const ends of starts.values()) {
      while (ends.length) {
        const loop = [];
        let next = ends.pop();
        while (next) {
          loop.push([(next[0] + next[2]) / 2, (next[1] + next[3]) / 2]);
          next = starts.get(next[3] * (width + 1) + next[2])?.pop();
        }
        loops.push(loop);
      }
    }
    lines.set(number, loops);
  }
  return lines;
}

function drawObjects(pen, view, width, height, index, sx, sy) {
  const kinds = view.data.kinds[view.model];
  if (!kinds) return;
  // A line is drawn twice as wide and cut off at the object's border: half of it remains, inside.
  const layers = { reference: view.data.labels.reference, prediction: view.data.labels[view.model] };
  for (const [side, map] of Object.entries(layers)) {
    const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : map[index(x, y)]);
    layers[side] = [];
    for (const [number, loops] of outlinesOf(width, height, at)) {
      const path = new Path2D();
      for (const loop of loops) {
        loop.forEach(([x, y], n) => (n ? path.lineTo(x * sx, y * sy) : path.moveTo(x * sx, y * sy)));
        path.closePath();
      }
      layers[side].push([kinds[side][number - 1], path]);
    }
  }
  const scale = Math.max(pen.canvas.width, pen.canvas.height) / 720;
  for (const style of view.structures) {
    if (!view.kinds[style.code]) continue;
    for (const [code, path] of layers[style.is_reference ? "reference" : "prediction"]) {
      if (code !== style.code) continue;
      pen.save();
      pen.clip(path, "evenodd");
      // Dark lines below make all of them seen on bright grounds; below thin ones only in part.
      const dash = style.dash.map((part) => part * scale);
      pen.setLineDash(style.width < 2 ? dash : []);
      pen.lineWidth = 2 * scale * (style.width + 1);
      pen.strokeStyle = "rgba(0, 0, 0, .6)";
      pen.stroke(path);
      pen.setLineDash(dash);
      pen.lineWidth = 2 * scale * style.width;
      pen.strokeStyle = style.colour;
      pen.stroke(path);
      pen.restore();
    }
  }
}

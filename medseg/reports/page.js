"use strict";
// Themes, sortable tables, and cases: slices in three planes with contours, and turning surfaces.
(() => {
  const root = document.documentElement;
  const themeButton = document.getElementById("theme");
  if (themeButton) {
    themeButton.addEventListener("click", () => {
      const dark = root.dataset.theme
        ? root.dataset.theme === "dark"
        : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
  }

  const number = (cell) => {
    const value = cell.dataset.value;
    return value === undefined ? cell.textContent.trim() : value === "nan" ? NaN : Number(value);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => {
          const [x, y] = [number(a.cells[column]), number(b.cells[column])];
          if (typeof x === "string" || typeof y === "string") {
            return String(x).localeCompare(String(y), undefined, { numeric: true }) * (up ? 1 : -1);
          }
          if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
          return (x - y) * (up ? 1 : -1);
        });
        table.tBodies[0].append(...rows);
      });
    });
  }

  async function unpack(text) {
    const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const end = bytes.indexOf(10);
    const head = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
    let at = end + 1;
    const take = (count) => bytes.subarray(at, (at += count));
    const voxels = head.shape[0] * head.shape[1] * head.shape[2];
    head.grey = [];
    for (let n = 0; n < head.channels; n++) head.grey.push(take(voxels));
    head.labels = {};
    const wide = (count) => new Uint16Array(take(2 * count).slice().buffer);
    for (const name of head.maps) {
      // Numbers of objects are of 32 bits, classes of 8.
      head.labels[name] = head.kinds ? new Uint32Array(take(4 * voxels).slice().buffer) : take(voxels);
      for (const part of head.surfaces) {
        if (part.map !== name) continue;
        part.points = wide(3 * part.vertices);
        part.corners = wide(3 * part.triangles);
      }
    }
    return head;
  }

  // Axis looked along, across to the right, and down; both run against R, A, S, as radiologists look.
  const PLANES = [
    { name: "transverse", along: 2, across: 0, down: 1 },
    { name: "coronal", along: 1, across: 0, down: 2 },
    { name: "sagittal", along: 0, across: 1, down: 2 },
  ];

  class Plane {
    constructor(view, plane, figure) {
      this.view = view;
      this.plane = plane;
      this.canvas = figure.querySelector("canvas");
      this.slider = figure.querySelector("input");
      this.output = figure.querySelector("output");
      const { shape, spacing } = view.data;
      this.width = shape[plane.across];
      this.height = shape[plane.down];
      const wide = this.width * spacing[plane.across];
      const tall = this.height * spacing[plane.down];
      const scale = (figure.closest(".flat") ? 1280 : 640) / Math.max(wide, tall);
      this.canvas.width = Math.max(16, Math.round(wide * scale));
      this.canvas.height = Math.max(16, Math.round(tall * scale));
      this.slider.max = shape[plane.along] - 1;
      this.slider.value = this.fullest();
      this.slider.addEventListener("input", () => this.draw());
      this.canvas.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.slider.value = Number(this.slider.value) + Math.sign(event.deltaY);
        this.draw();
      }, { passive: false });
      this.canvas.addEventListener("pointerdown", (event) => this.point(event));
      this.canvas.addEventListener("click", () => this.slider.focus({ preventScroll: true }));
    }

    index(slice, x, y) {
      const { shape } = this.view.data;
      const place = [0, 0, 0];
      place[this.plane.along] = slice;
      place[this.plane.across] = this.width - 1 - x;
      place[this.plane.down] = this.height - 1 - y;
      return (place[0] * shape[1] + place[1]) * shape[2] + place[2];
    }

    fullest() {
      const labels = this.view.data.labels.reference;
      let best = 0, most = -1;
      const count = this.view.data.shape[this.plane.along];
      for (let slice = 0; slice < count; slice++) {
        let filled = 0;
        for (let y = 0; y < this.height; y++)
          for (let x = 0; x < this.width; x++) if (labels[this.index(slice, x, y)]) filled++;
        if (filled > most) [best, most] = [slice, filled];
      }
      return most > 0 ? best : count >> 1;
    }

    point(event) {
      // A click sets the slices of the other planes through that place.
      const box = this.canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * this.width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * this.height);
      this.view.go(this.plane.across, this.width - 1 - x);
      this.view.go(this.plane.down, this.height - 1 - y);
    }

    draw() {
      const { grey } = this.view.data;
      const slice = Number(this.slider.value);
      this.output.textContent = `${slice + 1} / ${Number(this.slider.max) + 1}`;
      const [w, h] = [this.width, this.height];
      const pixels = new ImageData(w, h);
      for (let y = 0; y < h; y++) {
        for (let x = 0; x < w; x++) {
          const from = this.index(slice, x, y), to = 4 * (y * w + x);
          for (let c = 0; c < 3; c++)
            pixels.data[to + c] = grey.length ? grey[grey.length === 3 ? c : 0][from] : 0;
          pixels.data[to + 3] = 255;
        }
      }
      const small = document.createElement("canvas");
      [small.width, small.height] = [w, h];
      small.getContext("2d").putImageData(pixels, 0, 0);
      const pen = this.canvas.getContext("2d");
      pen.imageSmoothingEnabled = true;
      pen.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
      const [sx, sy] = [this.canvas.width / w, this.canvas.height / h];
      const index = (x, y) => this.index(slice, x, y);
      if (this.view.data.kinds) drawObjects(pen, this.view, w, h, index, sx, sy);
      else this.contours(pen, w, h, index, sx, sy);
    }

    contours(pen, w, h, index, sx, sy) {
      const { labels } = this.view.data;
      // The reference comes last and dotted, so that it is seen where a prediction agrees with it.
      const order = [...this.view.predictions, "reference"];
      for (const name of order) {
        if (!this.view.shown[name]) continue;
        const map = labels[name];
        const at = (x, y) => (x < 0 || y < 0 || x >= w || y >= h ? 0 : map[index(x, y)]);
        for (const { ids, colour } of this.view.structures) {
          const inside = (x, y) => ids.includes(at(x, y));
          const path = new Path2D();
          for (let y = 0; y <= h; y++) {
            for (let x = 0; x <= w; x++) {
              const here = inside(x, y);
              if (here !== inside(x - 1, y)) { path.moveTo(x * sx, y * sy); path.lineTo(x * sx, (y + 1) * sy); }
              if (here !== inside(x, y - 1)) { path.moveTo(x * sx, y * sy); path.lineTo((x + 1) * sx, y * sy); }
            }
          }
          const style = this.view.style(name, colour);
          if (!style.dash.length) {
            pen.lineWidth = style.width + 1.6;
            pen.strokeStyle = "rgba(0, 0, 0, .55)";
            pen.stroke(path);
          }
          pen.lineWidth = style.width;
          pen.strokeStyle = style.colour;
          pen.setLineDash(style.dash);
          pen.stroke(path);
          pen.setLineDash([]);
        }
      }
    }
  }

  class Surfaces {
    constructor(view, figure) {
      this.view = view;
      this.canvas = figure.querySelector("canvas");
      this.canvas.width = this.canvas.height = 560;
      this.turn = 0.6;
      this.tilt = 0.35;
      this.canvas.addEventListener("pointerdown", (event) => {
        this.canvas.setPointerCapture(event.pointerId);
        let [x, y] = [event.clientX, event.clientY];
        const move = (now) => {
          this.turn -= (now.clientX - x) * 0.01;
          this.tilt += (now.clientY - y) * 0.01;
          [x, y] = [now.clientX, now.clientY];
          this.draw();
        };
        this.canvas.addEventListener("pointermove", move);
        const end = () => this.canvas.removeEventListener("pointermove", move);
        this.canvas.addEventListener("pointerup", end, { once: true });
        this.canvas.addEventListener("pointercancel", end, { once: true });
      });
      this.canvas.addEventListener("keydown", (event) => {
        const steps = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
        const step = steps[event.key];
        if (!step) return;
        event.preventDefault();
        this.turn += step[0];
        this.tilt -= step[1];
        this.draw();
      });
    }

    draw() {
      const { extent, surfaces } = this.view.data;
      const pen = this.canvas.getContext("2d");
      const size = this.canvas.width;
      const scale = size / Math.hypot(...extent) * 1.05;
      const [ct, st, cp, sp] = [Math.cos(this.turn), Math.sin(this.turn), Math.cos(this.tilt), Math.sin(this.tilt)];
      pen.clearRect(0, 0, size, size);
      const faces = [];
      for (const part of surfaces) {
        if (!this.view.shown[part.map]) continue;
        const structure = this.view.structures.find((s) => s.name === part.label);
        if (!structure) continue;
        const style = this.view.style(part.map, structure.colour);
        const n = part.vertices;
        const [xs, ys, zs] = [new Float32Array(n), new Float32Array(n), new Float32Array(n)];
        for (let v = 0; v < n; v++) {
          const [r, a, s] = [0, 1, 2].map((axis) => (part.points[3 * v + axis] / 65535 - 0.5) * extent[axis]);
          // Seen from the front: the patient's right on the left, the head above.
          const x = -r * ct + a * st, depth = r * st + a * ct;
          xs[v] = x * scale + size / 2;
          ys[v] = (depth * sp - s * cp) * scale + size / 2;
          zs[v] = depth * cp + s * sp;
        }
        for (let t = 0; t < part.triangles; t++) {
          const [i, j, k] = [part.corners[3 * t], part.corners[3 * t + 1], part.corners[3 * t + 2]];
          const [ax, ay, az] = [xs[j] - xs[i], ys[j] - ys[i], (zs[j] - zs[i]) * scale];
          const [bx, by, bz] = [xs[k] - xs[i], ys[k] - ys[i], (zs[k] - zs[i]) * scale];
          const [nx, ny, nz] = [ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx];
          const light = 0.35 + 0.65 * Math.abs(nz) / (Math.hypot(nx, ny, nz) || 1);
          faces.push([zs[i] + zs[j] + zs[k], xs[i], ys[i], xs[j], ys[j], xs[k], ys[k], style, light]);
        }
      }
      faces.sort((a, b) => a[0] - b[0]);
      for (const [, x1, y1, x2, y2, x3, y3, style, light] of faces) {
        pen.beginPath();
        pen.moveTo(x1, y1);
        pen.lineTo(x2, y2);
        pen.lineTo(x3, y3);
        pen.closePath();
        const [r, g, b] = style.rgb.map((value) => Math.round(value * light));
        pen.globalAlpha = style.alpha;
        pen.fillStyle = pen.strokeStyle = `rgb(${r}, ${g}, ${b})`;
        pen.fill();
        if (style.alpha === 1) pen.stroke();
      }
      pen.globalAlpha = 1;
    }
  }

  class View {
    constructor(element, data, structures) {
      this.data = data;
      this.structures = structures;
      this.shown = {};
      this.predictions = data.maps.filter((name) => name !== "reference");
      for (const box of element.querySelectorAll("input[data-map]")) {
        if (!data.maps.includes(box.dataset.map)) box.disabled = true;
        this.shown[box.dataset.map] = box.checked;
        box.addEventListener("change", () => {
          this.shown[box.dataset.map] = box.checked;
          this.draw();
        });
      }
      // Of objects, kinds are switched on and off, and one model is shown at a time.
      this.kinds = {};
      for (const box of element.querySelectorAll("input[data-kind], input[data-model]")) {
        const { kind, model } = box.dataset;
        if (model && !data.kinds[model]) box.disabled = true;
        const set = () => {
          if (kind) this.kinds[kind] = box.checked;
          else if (box.checked) this.model = model;
        };
        set();
        box.addEventListener("change", () => {
          set();
          this.draw();
        });
      }
      this.planes = [];
      for (const figure of element.querySelectorAll("[data-plane]")) {
        const plane = PLANES.find((p) => p.name === figure.dataset.plane);
        // A picture has a single slice: only the plane that shows it is of use.
        if (data.shape[plane.across] === 1 || data.shape[plane.down] === 1) figure.hidden = true;
        else this.planes.push(new Plane(this, plane, figure));
      }
      const solid = element.querySelector("[data-surfaces]");
      if (data.surfaces.length) this.surfaces = new Surfaces(this, solid);
      else if (solid) solid.hidden = true;
      this.draw();
    }

    style(name, colour) {
      // The reference is pale, predictions have the colour of the class; further models are darker.
      if (name === "reference") {
        const pale = colour.map((value) => Math.round(value + (255 - value) * 0.68));
        return { colour: `rgb(${pale})`, rgb: pale, width: 2.4, alpha: 0.4, dash: [5, 4] };
      }
      const shade = Math.max(0.45, 1 - 0.28 * this.predictions.indexOf(name));
      const rgb = colour.map((value) => Math.round(value * shade));
      return { colour: `rgb(${rgb})`, rgb, width: 2.6, alpha: 1, dash: [] };
    }

    go(axis, slice) {
      const plane = this.planes.find((p) => p.plane.along === axis);
      if (plane) {
        plane.slider.value = slice;
        plane.draw();
      }
    }

    draw() {
      for (const plane of this.planes) plane.draw();
      if (this.surfaces) this.surfaces.draw();
    }
  }

  const structures = JSON.parse(document.getElementById("structures")?.textContent || "[]");
  const open = async (element) => {
    if (element.dataset.state) return;
    element.dataset.state = "opening";
    const data = await unpack(element.querySelector("script[type='text/plain']").textContent.trim());
    element.view = new View(element, data, structures);
    element.dataset.state = "open";
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) open(entry.target);
  }, { rootMargin: "400px" });
  for (const element of document.querySelectorAll(".case[data-case]")) watcher.observe(element);
  addEventListener("beforeprint", () => document.querySelectorAll(".case[data-case]").forEach(open));
})();

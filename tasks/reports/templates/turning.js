"use strict";
// Turns a cloud of points in three dimensions: by mouse, touch and keyboard. Reads numbers from a JSON block; draws on a canvas.
(() => {
  addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((one) => {
    one.dataset.folded = "";
    one.open = true;
  }));
  addEventListener("afterprint", () => document.querySelectorAll("details[data-folded]").forEach((one) => {
    delete one.dataset.folded;
    one.open = false;
  }));

  const data = document.getElementById("turning-data");
  const canvas = document.getElementById("turning");
  if (!data || !canvas) return;
  const { clouds, colours, names } = JSON.parse(data.textContent);
  const says = document.getElementById("turning-says");
  const spin = document.getElementById("turning-spin");
  const pen = canvas.getContext("2d");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const hint = says.textContent;
  let cloud = clouds[0], yaw = 0.6, pitch = 0.35, zoom = 1, spinning = false, last = 0, asked = false, held = null, places = [];

  function draw() {
    asked = false;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const scale = Math.min(width, height) * 0.47 * zoom;
    const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
    const project = ([x, y, z]) => {
      const across = cy * x + sy * z, depth = cy * z - sy * x;
      const up = cp * y - sp * depth, far = cp * depth + sp * y;
      const near = 1 / (1 + 0.28 * far);
      return [width / 2 + across * scale * near, height / 2 - up * scale * near, far];
    };
    axes(project);
    places = cloud.points.map((point, row) => [...project(point), cloud.codes[row]]);
    for (const [x, y, far, code] of [...places].sort((a, b) => b[2] - a[2])) {
      pen.globalAlpha = 0.9 - 0.25 * (far + 1);
      pen.fillStyle = colours[code];
      pen.beginPath();
      pen.arc(x, y, (3.4 - far) * Math.sqrt(zoom), 0, 2 * Math.PI);
      pen.fill();
    }
    pen.globalAlpha = 1;
  }

  function axes(project) {
    pen.strokeStyle = pen.fillStyle = getComputedStyle(canvas).color;
    pen.globalAlpha = 0.35;
    pen.font = "11px system-ui, sans-serif";
    for (let axis = 0; axis < 3; axis++) {
      const end = [0, 0, 0], start = [0, 0, 0];
      end[axis] = 1;
      start[axis] = -1;
      const [a, b] = [project(start), project(end)];
      pen.beginPath();
      pen.moveTo(a[0], a[1]);
      pen.lineTo(b[0], b[1]);
      pen.stroke();
      pen.fillText(String(axis + 1), b[0] + 3, b[1] - 3);
    }
  }

  function redraw() {
    if (!asked) {
      asked = true;
      requestAnimationFrame(draw);
    }
  }

  function turn(sideways, upwards) {
    yaw += sideways;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + upwards));
    redraw();
  }

  function frame(now) {
    if (!spinning) return;
    turn(Math.min(now - (last || now), 100) * 0.0006, 0);
    last = now;
    requestAnimationFrame(frame);
  }

  function setSpinning(on) {
    spinning = on;
    last = 0;
    spin.textContent = on ? "Stop" : "Turn by itself";
    spin.setAttribute("aria-pressed", String(on));
    if (on) requestAnimationFrame(frame);
  }

  function nearest(x, y) {
    let best = null, least = 144;
    for (const place of places) {
      const distance = (place[0] - x) ** 2 + (place[1] - y) ** 2;
      if (distance < least) [best, least] = [place, distance];
    }
    return best;
  }

  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
    setSpinning(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held) {
      turn((event.clientX - held[0]) * 0.008, (event.clientY - held[1]) * 0.008);
      held = [event.clientX, event.clientY];
    } else {
      const found = nearest(event.offsetX, event.offsetY);
      says.textContent = found ? names[found[3]] : hint;
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => (held = null));
  canvas.addEventListener("pointerleave", () => (says.textContent = hint));
  canvas.addEventListener("keydown", (event) => {
    const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
    const zooms = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (turns[event.key]) turn(...turns[event.key]);
    else if (zooms[event.key]) zoom = Math.max(0.5, Math.min(4, zoom * zooms[event.key]));
    else if (event.key === "0") [yaw, pitch, zoom] = [0.6, 0.35, 1];
    else return;
    setSpinning(false);
    event.preventDefault();
    redraw();
  });
  spin.addEventListener("click", () => setSpinning(!spinning));
  document.querySelectorAll("[data-cloud]").forEach((button) => button.addEventListener("click", () => {
    cloud = clouds[Number(button.dataset.cloud)];
    document.querySelectorAll("[data-cloud]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
    redraw();
  }));
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  // A short turn when it first comes into view shows that there is depth; not for those who asked for calm.
  new IntersectionObserver(([seen], watcher) => {
    if (!seen.isIntersecting) return;
    watcher.disconnect();
    if (calm.matches) return;
    setSpinning(true);
    setTimeout(() => setSpinning(false), 4000);
  }, { threshold: 0.6 }).observe(canvas);
  calm.addEventListener("change", () => calm.matches && setSpinning(false));
  draw();
})();

"use strict";
// Rotates a 3-D scatter plot by mouse, touch and keyboard. Reads its data from a JSON block and draws on a canvas.
(() => {
  // Print collapsed sections too, and collapse them again afterwards.
  addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((details) => {
    details.dataset.collapsed = "";
    details.open = true;
  }));
  addEventListener("afterprint", () => document.querySelectorAll("details[data-collapsed]").forEach((details) => {
    delete details.dataset.collapsed;
    details.open = false;
  }));

  const data = document.getElementById("rotate-data");
  const canvas = document.getElementById("rotate");
  if (!data || !canvas) return;
  const { clouds, colors, names } = JSON.parse(data.textContent);
  const hint = document.getElementById("rotate-hint");
  const autoButton = document.getElementById("rotate-auto");
  const context = canvas.getContext("2d");
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  const hintText = hint.textContent;
  const initialView = { yaw: 0.6, pitch: 0.35, zoom: 1 };
  let cloud = clouds[0], view = { ...initialView };
  let isRotating = false, lastFrame = 0, isDrawPending = false, dragStart = null, projected = [];

  function draw() {
    isDrawPending = false;
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const project = makeProjection(width, height);
    drawAxes(project);
    projected = cloud.points.map((point, row) => [...project(point), cloud.codes[row]]);
    for (const [x, y, depth, code] of [...projected].sort((a, b) => b[2] - a[2])) {
      context.globalAlpha = 0.9 - 0.25 * (depth + 1);
      context.fillStyle = colors[code];
      context.beginPath();
      context.arc(x, y, (3.4 - depth) * Math.sqrt(view.zoom), 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  // Returns a function from a point to [x, y, depth], with some perspective.
  function makeProjection(width, height) {
    const scale = Math.min(width, height) * 0.47 * view.zoom;
    const [sinYaw, cosYaw, sinPitch, cosPitch] = [Math.sin(view.yaw), Math.cos(view.yaw), Math.sin(view.pitch), Math.cos(view.pitch)];
    return ([x, y, z]) => {
      const right = cosYaw * x + sinYaw * z, back = cosYaw * z - sinYaw * x;
      const up = cosPitch * y - sinPitch * back, depth = cosPitch * back + sinPitch * y;
      const perspective = 1 / (1 + 0.28 * depth);
      return [width / 2 + right * scale * perspective, height / 2 - up * scale * perspective, depth];
    };
  }

  function drawAxes(project) {
    context.strokeStyle = context.fillStyle = getComputedStyle(canvas).color;
    context.globalAlpha = 0.35;
    context.font = "11px system-ui, sans-serif";
    for (let axis = 0; axis < 3; axis++) {
      const start = [0, 0, 0], end = [0, 0, 0];
      start[axis] = -1;
      end[axis] = 1;
      const [from, to] = [project(start), project(end)];
      context.beginPath();
      context.moveTo(from[0], from[1]);
      context.lineTo(to[0], to[1]);
      context.stroke();
      context.fillText(String(axis + 1), to[0] + 3, to[1] - 3);
    }
  }

  function requestDraw() {
    if (isDrawPending) return;
    isDrawPending = true;
    requestAnimationFrame(draw);
  }

  function rotate(yaw, pitch) {
    view.yaw += yaw;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + pitch));
    requestDraw();
  }

  function rotateFrame(now) {
    if (!isRotating) return;
    rotate(Math.min(now - (lastFrame || now), 100) * 0.0006, 0);
    lastFrame = now;
    requestAnimationFrame(rotateFrame);
  }

  function setRotating(on) {
    isRotating = on;
    lastFrame = 0;
    autoButton.textContent = on ? "Stop" : "Rotate";
    autoButton.setAttribute("aria-pressed", String(on));
    if (on) requestAnimationFrame(rotateFrame);
  }

  function findNearestPoint(x, y) {
    let nearest = null, smallest = 144; // squared pixels
    for (const point of projected) {
      const distance = (point[0] - x) ** 2 + (point[1] - y) ** 2;
      if (distance < smallest) [nearest, smallest] = [point, distance];
    }
    return nearest;
  }

  canvas.addEventListener("pointerdown", (event) => {
    dragStart = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
    setRotating(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragStart) {
      rotate((event.clientX - dragStart[0]) * 0.008, (event.clientY - dragStart[1]) * 0.008);
      dragStart = [event.clientX, event.clientY];
    } else {
      const point = findNearestPoint(event.offsetX, event.offsetY);
      hint.textContent = point ? names[point[3]] : hintText;
    }
  });
  for (const type of ["pointerup", "pointercancel"]) canvas.addEventListener(type, () => (dragStart = null));
  canvas.addEventListener("pointerleave", () => (hint.textContent = hintText));
  canvas.addEventListener("keydown", (event) => {
    const rotations = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
    const zooms = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (rotations[event.key]) rotate(...rotations[event.key]);
    else if (zooms[event.key]) view.zoom = Math.max(0.5, Math.min(4, view.zoom * zooms[event.key]));
    else if (event.key === "0") view = { ...initialView };
    else return;
    setRotating(false);
    event.preventDefault();
    requestDraw();
  });
  autoButton.addEventListener("click", () => setRotating(!isRotating));
  const cloudButtons = document.querySelectorAll("[data-cloud]");
  cloudButtons.forEach((button) => button.addEventListener("click", () => {
    cloud = clouds[Number(button.dataset.cloud)];
    cloudButtons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
    requestDraw();
  }));
  new ResizeObserver(requestDraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", requestDraw);
  matchMedia("print").addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  // A short rotation when the plot first comes into view shows that it has depth, unless the reader prefers reduced motion.
  new IntersectionObserver(([entry], observer) => {
    if (!entry.isIntersecting) return;
    observer.disconnect();
    if (reducedMotion.matches) return;
    setRotating(true);
    setTimeout(() => setRotating(false), 4000);
  }, { threshold: 0.6 }).observe(canvas);
  reducedMotion.addEventListener("change", () => reducedMotion.matches && setRotating(false));
  draw();
})();

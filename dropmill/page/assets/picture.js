// An image with its boxes, outlines and masks on top.

import { address } from "./ask.js";
import { el, hueOf, svg } from "./dom.js";

/** The picture of a sample; `labels` writes the classes, `shown` says what is drawn. */
export function picture(sample, { size = 256, labels = false, shown = { boxes: true, masks: true }, eager = false } = {}) {
  const [width, height] = [sample.width || 1, sample.height || 1];
  const holder = el("div", { class: "picture" });
  holder.style.aspectRatio = `${width} / ${height}`;
  holder.style[width / height >= 4 / 3 || labels ? "width" : "height"] = "100%";
  const image = el("img", {
    src: address("picture", { dataset: sample.dataset, sample: sample.sample, version: sample.version, size }),
    alt: altOf(sample), loading: eager ? "eager" : "lazy", decoding: "async", width, height,
    onerror: () => image.replaceWith(el("span", { class: "gone", role: "img", "aria-label": altOf(sample) },
      "no picture: removed, replaced or too large")),
  });
  holder.append(image);
  if (shown.masks) drawMasks(holder, sample);
  if (shown.boxes) holder.append(boxes(sample, labels));
  else if (shown.masks) holder.append(boxes(sample, false, false));
  return holder;
}

export function altOf(sample) {
  const counts = countsOf(sample).map(([name, boxes]) => `${boxes} ${name}`);
  return `${sample.sample}: ${counts.length ? counts.join(", ") : "no objects"}`;
}

export function countsOf(sample) {
  const counts = new Map();
  for (const box of sample.boxes) counts.set(box.category, (counts.get(box.category) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]);
}

function boxes(sample, labels, withBoxes = true) {
  const [width, height] = [sample.width || 1, sample.height || 1];
  const letters = Math.max(width, height) / 55;
  const drawing = svg("svg", { class: "boxes", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  sample.boxes.forEach((box, place) => {
    for (const polygon of (box.mask ?? box.shape)?.polygons ?? []) {
      drawing.append(svg("polygon", { hue: box.category, points: polygon.join(" ") }));
    }
    if (!withBoxes || [box.xmin, box.ymin, box.xmax, box.ymax].includes(null)) return;
    const [left, right] = [Math.min(box.xmin, box.xmax), Math.max(box.xmin, box.xmax)];
    const [top, bottom] = [Math.min(box.ymin, box.ymax), Math.max(box.ymin, box.ymax)];
    drawing.append(svg("rect", { hue: box.category, class: box.ignore ? "ignored" : "box", "data-box": place,
      x: left, y: top, width: right - left, height: bottom - top }, svg("title", {}, box.category ?? "")));
    if (labels) {
      drawing.append(svg("text", { x: left, y: Math.max(letters, top - letters * 0.3), "font-size": letters }, box.category ?? ""));
    }
  });
  return drawing;
}

/** Run lengths down the columns, as the interface gives them, on one canvas. */
function drawMasks(holder, sample) {
  const masked = sample.boxes.map((box) => [box.category, (box.mask ?? box.shape)?.runs]).filter(([, runs]) => runs);
  if (!masked.length) return;
  const { width, height } = masked[0][1];
  const canvas = el("canvas", { width, height, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (const [category, runs] of masked) {
    if (runs.width !== width || runs.height !== height) continue;
    const [red, green, blue] = rgb(hueOf(category));
    let place = 0;
    runs.counts.forEach((length, number) => {
      if (number % 2) {
        for (let at = place; at < place + length; at += 1) {
          const offset = 4 * ((at % height) * width + Math.floor(at / height));
          pixels.data.set([red, green, blue, 255], offset);
        }
      }
      place += length;
    });
  }
  context.putImageData(pixels, 0, 0);
  holder.append(canvas);
}

function rgb(hue) {
  const part = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.6 - 0.38 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

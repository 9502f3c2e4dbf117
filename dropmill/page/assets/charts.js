// Small charts in SVG, each with the words that a screen reader needs.

import { el, svg } from "./dom.js";

/** A bar of a part of 1, for a cell of a table whose number stands beside it. */
export function bar(part, name) {
  return svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "of-class", hue: name, x: 0, y: 0, height: 10, width: Math.max(0.5, 100 * part) }));
}

/** Stacked shares of classes, column by column, with a line of numbers from 0 to 1 over them. */
export function stacked(label, columns, classes) {
  const [width, height, left, bottom] = [640, 200, 34, 22];
  const step = (width - left) / Math.max(columns.length, 1);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const y = (height - bottom) * (1 - share) + 4;
    chart.append(svg("path", { class: "axis", d: `M${left} ${y}H${width}` }),
      svg("text", { x: left - 5, y: y + 4, "text-anchor": "end" }, share));
  }
  columns.forEach((column, place) => {
    const total = Object.values(column.counts).reduce((sum, boxes) => sum + boxes, 0);
    let y = height - bottom + 4;
    for (const name of classes) {
      const boxes = column.counts[name];
      if (!boxes) continue;
      const tall = (boxes / total) * (height - bottom);
      y -= tall;
      chart.append(svg("rect", { class: "of-class", hue: name, x: left + place * step + 1, y, height: tall,
        width: Math.max(1, Math.min(step - 2, 60)) }, svg("title", {}, `${column.title}, ${name}: ${boxes}`)));
    }
  });
  const points = columns
    .map((column, place) => [left + place * step + 1 + Math.min(step - 2, 60) / 2, column.line])
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([x, value]) => [x, (height - bottom) * (1 - Math.min(value, 1)) + 4]);
  if (points.length) {
    chart.append(svg("polyline", { class: "drift", points: points.map((point) => point.join(",")).join(" ") }),
      ...points.map(([cx, cy]) => svg("circle", { class: "drift-point", cx, cy, r: 2.5 })));
  }
  const every = Math.ceil(columns.length / 12);
  columns.forEach((column, place) => {
    if (place % every === 0) chart.append(svg("text", { x: left + place * step + 1, y: height - 4 }, column.short));
  });
  return chart;
}

export function legend(names) {
  return el("ul", { class: "legend" }, names.map((name) =>
    el("li", {}, el("span", { class: "key", hue: name, "aria-hidden": "true" }), name)));
}

/** Lines over one axis; series: name to values, null where there is none. */
export function lines(label, xs, series) {
  const [width, height, left, bottom] = [640, 220, 52, 24];
  const every = Object.values(series).flat().filter((value) => value !== null);
  const [low, high] = [Math.min(...every), Math.max(...every)];
  const span = high - low || 1;
  const [first, last] = [xs[0], xs.at(-1)];
  const x = (value) => left + ((value - first) / (last - first || 1)) * (width - left - 8);
  const y = (value) => 8 + (1 - (value - low) / span) * (height - bottom - 8);
  const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const part of [0, 0.5, 1]) {
    const value = low + part * span;
    chart.append(svg("path", { class: "axis", d: `M${left} ${y(value)}H${width}` }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, Number(value.toPrecision(3))));
  }
  chart.append(svg("text", { x: left, y: height - 6 }, first),
    svg("text", { x: width - 8, y: height - 6, "text-anchor": "end" }, `epoch ${last}`));
  for (const [name, values] of Object.entries(series)) {
    const points = values.map((value, place) => [value, place]).filter(([value]) => value !== null)
      .map(([value, place]) => `${x(xs[place]).toFixed(1)},${y(value).toFixed(1)}`);
    if (points.length === 1) {
      const [cx, cy] = points[0].split(",");
      chart.append(svg("circle", { class: "of-class", hue: name, cx, cy, r: 3 }));
    } else {
      chart.append(svg("polyline", { class: "line", hue: name, points: points.join(" ") }, svg("title", {}, name)));
    }
  }
  return chart;
}

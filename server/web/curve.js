// The recall/cost curve of POST /evaluate: what other prefixes would find, for how much memory.

import { el, svg } from "./dom.js";
import { bytes, count, counted, interval, ms, share } from "./format.js";
import { roomFor, sharesFrom } from "./scales.js";

const HIGH = 280;
const LEFT = 48, RIGHT = 16, TOP = 12, BOTTOM = 28;
const LOWEST = 0.5; // recall; below, a form is of no use, and the differences above would be lost

/** The plot, a choice of how many candidates, and the same as a table. */
export function drawCurve(result) {
  const { curve, serving, k } = result;
  const oversamples = Object.keys(curve.forms[0].recall);
  const nearest = oversamples.reduce((best, each) =>
    (Math.abs(each - serving.oversample) < Math.abs(best - serving.oversample) ? each : best));
  const place = el("div");
  const choice = el("select", { id: "curve-oversample" }, oversamples.map((each) =>
    el("option", { value: each, selected: each === nearest }, `${count(each * k)}, ${each} for each hit`)));
  const show = () => place.replaceChildren(figure(result, choice.value));
  choice.addEventListener("change", show);
  show();
  const { recall, p50_ms: p50, rows_read: reads, bytes_read: read } = serving;
  return [
    el("h3", {}, "Recall and what it costs"),
    el("p", {}, `As it serves: recall@${k} ${interval(recall)}, ${ms(p50)} ms, ${count(reads)} full vectors read `
      + `(${bytes(read)}), over ${counted(result.passages, "passage")}.`),
    el("p", {}, el("label", { class: "beside" }, "Candidates", choice)),
    place,
  ];
}

const codecsOf = (curve) => [...new Set(curve.forms.map((form) => form.codec))];

function figure(result, oversample) {
  const { curve, k } = result;
  return el("figure", {}, plot(result, oversample),
    el("p", { class: "legend" }, codecsOf(curve).map((codec, n) => el("span", { class: `stage-name series-${n}` }, codec))),
    el("figcaption", {}, `Share of the true ${k} nearest among ${count(oversample * k)} candidates, by the memory that the `
      + "prefixes take. Full lines: the corpus’s own order of dimensions; dashed: the model’s. The ring is this server."),
    el("details", {}, el("summary", {}, "As a table"), table(curve, oversample)));
}

function plot({ curve, serving, passages }, oversample) {
  const codecs = codecsOf(curve);
  const memory = (form) => form.row_bytes * passages;
  const sizes = curve.forms.map(memory);
  const own = { x: (serving.first_pass.row_bytes ?? 0) * passages, y: serving.pool_recall.mean };
  const [least, most] = [Math.min(...sizes, own.x || Infinity), Math.max(...sizes, own.x)];
  const wide = roomFor();
  const values = sharesFrom(Math.max(LOWEST, Math.min(...curve.forms.map((form) => form.recall[oversample]), own.y)), 5);
  const lowest = values[0];
  const x = (size) => LEFT + (Math.log(size / least) / (Math.log(most / least) || 1)) * (wide - LEFT - RIGHT);
  const y = (value) => TOP + ((1 - Math.max(value, lowest)) / (1 - lowest || 1)) * (HIGH - TOP - BOTTOM);
  const ticks = (most > least ? [0, 1, 2, 3] : [0]).map((n) => least * (most / least) ** (n / 3));
  return svg("svg", { viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": "Recall by memory; the table below has the figures" },
    values.map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: wide - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, share(value)),
    ]).flat(),
    ticks.map((size, n) => svg("text", {
      x: x(size), y: HIGH - 8, "text-anchor": n === 0 ? "start" : n === 3 ? "end" : "middle" }, bytes(size))),
    ["corpus", "model"].flatMap((order) => codecs.map((codec, n) => {
      const forms = curve.forms.filter((form) => form.codec === codec && form.order === order)
        .sort((a, b) => a.row_bytes - b.row_bytes);
      return forms.length ? series(forms, `series series-${n} ${order}`, x, y, memory, oversample) : null;
    })),
    own.x > 0 && svg("circle", { class: "own", cx: x(own.x), cy: y(own.y), r: 8 }, svg("title", {}, `this server: ${share(own.y)}`)),
  );
}

function series(forms, name, x, y, memory, oversample) {
  const points = forms.map((form) => [x(memory(form)), y(form.recall[oversample]), form]);
  return svg("g", { class: name },
    svg("polyline", { points: points.map(([at, high]) => `${at},${high}`).join(" ") }),
    points.map(([cx, cy, form]) => svg("circle", { cx, cy, r: 3.5 }, svg("title", {},
      `${form.codec}, ${form.prefix_dim} dimensions, ${form.order}’s order: ${share(form.recall[oversample])}, ${bytes(memory(form))}`))));
}

function table(curve, oversample) {
  const head = ["Codec", "Dimensions", "Order", "Bytes a passage", "Scan", "Recall"];
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Recall of other forms" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, curve.forms.map((form) => el("tr", {}, [form.codec, form.prefix_dim, form.order, form.row_bytes,
      `${ms(form.scan_ms)} ms`, share(form.recall[oversample])].map((value) => el("td", {}, String(value))))))));
}

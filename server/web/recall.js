// Measured recall: of live searches now, and of every measurement since the server started.

import { el, svg } from "./dom.js";
import { count, interval, share } from "./format.js";
import { roomFor, sharesFrom } from "./scales.js";
import { FEWEST_CHECKED } from "./summary.js";

const HIGH = 130;
const LEFT = 48, RIGHT = 12, TOP = 12, BOTTOM = 24;

/** What is known of recall; `measured` are ended jobs of POST /evaluate, the newest first. */
export function drawRecall(stats, measured) {
  const { gauge } = stats;
  const expected = stats.first_pass.evidence?.calibration;
  const isTelling = gauge.checked >= FEWEST_CHECKED;
  const lines = [];
  if (isTelling) {
    lines.push(el("p", { class: "figure" }, el("b", {}, interval(gauge.recall)),
      ` of the true nearest were found by the last ${count(gauge.checked)} live searches that were checked.`));
  } else if (gauge.share) {
    lines.push(el("p", {}, `${share(gauge.share * 100, gauge.share < 0.01 ? 2 : 0)} % of live searches are made again exactly, `
      + `when the server has time. ${count(gauge.checked)} were so far; ${FEWEST_CHECKED} tell something.`));
  } else lines.push(el("p", {}, "Live searches aren’t checked here: the setting index.gauge_share is 0."));
  if (expected?.pool_recall) {
    const at = expected.pool_recall[String(stats.first_pass.oversample)];
    if (at !== undefined) {
      lines.push(el("p", { class: "small" }, `When the index was made, ${share(at)} of the true nearest were among the candidates.`));
    }
  }
  const points = measured.filter(({ result }) => result.serving).map(({ created_at, result }) =>
    ({ at: new Date(created_at), recall: result.serving.recall, what: "measured" })).reverse();
  if (isTelling) points.push({ at: new Date(), recall: gauge.recall, what: "live" });
  if (points.length > 1) lines.push(el("figure", {}, overTime(points), el("figcaption", {}, "Recall over time, with 95 % intervals.")));
  return lines;
}

function overTime(points) {
  const wide = roomFor();
  const shares = sharesFrom(Math.min(...points.map(({ recall }) => recall.low), 0.99), 3);
  const least = shares[0];
  const [from, to] = [points[0].at, points.at(-1).at];
  const x = (time) => LEFT + ((time - from) / (to - from || 1)) * (wide - LEFT - RIGHT);
  const y = (value) => TOP + ((1 - value) / (1 - least)) * (HIGH - TOP - BOTTOM);
  const clock = (time) => time.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false });
  return svg("svg", { viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": points.map(({ at, recall }) =>
    `${clock(at)}: ${interval(recall)}`).join(", ") },
    shares.map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: wide - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, share(value)),
    ]).flat(),
    svg("polyline", { class: "mine", points: points.map(({ at, recall }) => `${x(at)},${y(recall.mean)}`).join(" ") }),
    points.map(({ at, recall, what }) => [
      svg("line", { class: "spread", x1: x(at), x2: x(at), y1: y(recall.high), y2: y(recall.low) }),
      svg("circle", { class: `mine ${what}`, cx: x(at), cy: y(recall.mean), r: 4 },
        svg("title", {}, `${clock(at)}, ${what}: ${interval(recall)}`)),
    ]).flat(),
    svg("text", { x: LEFT, y: HIGH - 6 }, clock(from)),
    svg("text", { x: wide - RIGHT, y: HIGH - 6, "text-anchor": "end" }, clock(to)));
}

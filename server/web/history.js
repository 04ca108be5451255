// Recall over time: every measurement that the server has kept, its gauge's and those that were asked for.

import { el, svg } from "./dom.js";
import { count, counted, interval, moment, share } from "./format.js";
import { roomFor, sharesFrom } from "./scales.js";
import { FEWEST_CHECKED } from "./summary.js";

const HIGH = 150;
const LEFT = 48, RIGHT = 12, TOP = 12, BOTTOM = 24;
const MARK = 4.5; // half the height of a mark
const LONG_MS = 36 * 3600 * 1000; // from there on days say more than hours

const SOURCES = { gauge: "live searches", evaluation: "measured on request" };
const THINGS = { live: ["live search", "live searches"], stored: ["stored passage", "stored passages"],
  given: ["given query", "given queries"] };

/** The last measurement in words, all of them as a drawing and as a table. `points` as GET /stats/recall tells them. */
export function drawHistory(points) {
  if (!points.length) {
    return [el("p", { class: "small" }, "Nothing was measured yet that could be drawn over time. “Measure now” makes a beginning; "
      + "live searches that the server makes again follow by themselves.")];
  }
  const last = points.reduce((best, each) => (each.ended_at > best.ended_at ? each : best));
  const sources = Object.keys(SOURCES).filter((source) => points.some((each) => each.source === source));
  return [
    el("p", {}, `Last measured ${moment(last.ended_at)}: recall ${interval(last.recall)}, on ${searched(last)}.`),
    el("figure", {}, plot(points),
      el("p", { class: "legend" }, sources.map((source) => el("span", { class: `stage-name ${source}` }, SOURCES[source]))),
      el("figcaption", {}, "Recall over time, with 95 % intervals, cut off where the scale ends; of fewer than "
        + `${FEWEST_CHECKED} searches, pale. A dashed line: another first pass, as after a rebuild.`),
      el("details", {}, el("summary", {}, "As a table"), table(points))),
  ];
}

const isTelling = ({ searches }) => searches >= FEWEST_CHECKED;

const searched = ({ queries, searches }) => `${count(searches)} ${THINGS[queries][searches === 1 ? 0 : 1]}`;

const describe = ({ codec, prefix_dim: length, oversample }) => `${codec}, ${length} dimensions, ${oversample} candidates a hit`;

/** When it was measured: of a short time, its end. */
function when({ began_at: began, ended_at: ended }) {
  const [from, to] = [moment(began), moment(ended)];
  return from === to || new Date(ended) - new Date(began) < LONG_MS / 36 ? to : `${from} to ${to}`;
}

function plot(points) {
  const wide = roomFor();
  const times = points.flatMap((each) => [new Date(each.began_at), new Date(each.ended_at)]);
  const [from, to] = [new Date(Math.min(...times)), new Date(Math.max(...times))];
  // The scale is that of the means: intervals, and what a few searches had, would leave their changes no room.
  const telling = points.some(isTelling) ? points.filter(isTelling) : points;
  const lowest = Math.min(...telling.map(({ recall }) => recall.mean));
  const shares = sharesFrom(Math.min(0.99, 1 - 1.5 * (1 - lowest)), 3);
  const least = shares[0];
  const x = (time) => LEFT + (to > from ? (new Date(time) - from) / (to - from) : 0.5) * (wide - LEFT - RIGHT);
  const y = (value) => TOP + ((1 - Math.max(value, least)) / (1 - least)) * (HIGH - TOP - BOTTOM);
  const middle = (each) => (x(each.began_at) + x(each.ended_at)) / 2;
  const axis = (time) => (to - from > LONG_MS ? time.toLocaleDateString(undefined, { dateStyle: "medium" })
    : time.toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hour12: false }));
  const means = points.map(({ recall }) => recall.mean);
  const label = `Recall over time: ${counted(points.length, "measurement")} from ${moment(from)} to ${moment(to)}, `
    + `between ${share(Math.min(...means))} and ${share(Math.max(...means))}; the table below has them`;
  return svg("svg", { viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": label },
    shares.map((value) => [
      svg("line", { class: "grid", x1: LEFT, x2: wide - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, share(value)),
    ]).flat(),
    points.filter(isAnother).map((each) => svg("line", { class: "change", x1: x(each.began_at), x2: x(each.began_at), y1: TOP, y2: HIGH - BOTTOM },
      svg("title", {}, `another first pass: ${describe(each.first_pass)}`))),
    Object.keys(SOURCES).map((source) => {
      const mine = points.filter((each) => each.source === source);
      return svg("g", { class: source },
        svg("polyline", { points: mine.map((each) => `${middle(each)},${y(each.recall.mean)}`).join(" ") }),
        mine.map((each) => svg("g", { class: isTelling(each) ? "measurement" : "measurement few" },
          svg("title", {}, `${when(each)}, ${searched(each)}: recall ${interval(each.recall)}, `
            + `${share(each.pool_recall.mean)} among the candidates; ${counted(each.passages, "passage")}; ${describe(each.first_pass)}`),
          svg("line", { class: "spread", x1: middle(each), x2: middle(each), y1: y(each.recall.high), y2: y(each.recall.low) }),
          svg("line", { class: "span", x1: x(each.began_at), x2: x(each.ended_at), y1: y(each.recall.mean), y2: y(each.recall.mean) }),
          mark(source, middle(each), y(each.recall.mean)))));
    }),
    svg("text", { x: LEFT, y: HIGH - 6 }, axis(from)),
    to > from && svg("text", { x: wide - RIGHT, y: HIGH - 6, "text-anchor": "end" }, axis(to)));
}

/** Whether a point was measured of another first pass than the one before it. */
function isAnother(point, at, points) {
  return at > 0 && JSON.stringify(point.first_pass) !== JSON.stringify(points[at - 1].first_pass);
}

/** A circle for live searches, a diamond for what somebody asked for. */
const mark = (source, x, y) => (source === "gauge" ? svg("circle", { cx: x, cy: y, r: MARK - 0.5 })
  : svg("path", { d: `M${x} ${y - MARK}l${MARK} ${MARK}l${-MARK} ${MARK}l${-MARK} ${-MARK}z` }));

function table(points) {
  const head = ["When", "On", "Recall", "Among candidates", "Passages", "First pass"];
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Recall over time" }, el("table", {},
    el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, [...points].reverse().map((each) => el("tr", {}, [when(each), searched(each), interval(each.recall),
      interval(each.pool_recall), count(each.passages), describe(each.first_pass)].map((value) => el("td", {}, value)))))));
}

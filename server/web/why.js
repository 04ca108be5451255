// Why a result is where it is: how its score grew with the dimensions, and how the second pass moved it.

import { el, svg } from "./dom.js";
import { count, ordinal, share } from "./format.js";

const WIDE = 330, HIGH = 170; // units of both drawings
const LEFT = 40, RIGHT = 48, TOP = 14, BOTTOM = 26;
const LEAST_SPAN = 0.2; // of a score, over the height of the smallest drawing: less would make mountains of molehills
const COMPARED = 20; // other hits that are drawn behind

/** The scores of a hit by length: [[64, 0.32], …], the whole length last. */
const scoresOf = (hit) =>
  Object.entries(hit.explain.scores).map(([length, score]) => [Number(length), score]).sort((a, b) => a[0] - b[0]);

/** The growth of a score, as small as a word. */
export function drawGrowth(hit) {
  const scores = scoresOf(hit).map(([, score]) => score);
  const middle = (Math.min(...scores) + Math.max(...scores)) / 2;
  const span = Math.max(LEAST_SPAN, Math.max(...scores) - Math.min(...scores));
  const [least, most] = [middle - span / 2, middle + span / 2];
  const points = scores.map((score, n) =>
    `${2 + (n * 44) / Math.max(1, scores.length - 1)},${16 - (14 * (score - least)) / (most - least)}`);
  return svg("svg", { viewBox: "0 0 48 18", class: "growth", "aria-hidden": "true" },
    svg("polyline", { points: points.join(" ") }));
}

/** Both drawings and their sentences. */
export function explanation(hit, { hits, prefixDim }) {
  const others = hits.filter((each) => each !== hit && each.explain).slice(0, COMPARED);
  const moved = hit.explain.prefix_rank !== null;
  return [
    el("div", { class: "drawings" },
      el("figure", {}, growthDrawing(hit, others, prefixDim), el("figcaption", {}, sayGrowth(hit))),
      moved && el("figure", {}, ranksDrawing(hit, others), el("figcaption", {}, sayRanks(hit)))),
    hit.explain.words && el("p", {}, sayWords(hit.explain)),
  ].filter(Boolean);
}

function sayGrowth(hit) {
  const scores = scoresOf(hit);
  const [[first, least], [last, most]] = [scores[0], scores.at(-1)];
  if (first === last) return `Cosine ${share(most)} over all ${count(last)} dimensions.`;
  return `Its first ${first} dimensions alone score ${share(least)}, all ${count(last)} score ${share(most)}. `
    + "Diamond: the first pass; pale: the other hits.";
}

/** The rank that the second pass gave; in a hybrid search the words have a say after that. */
const rankAfter = ({ explain }) => explain.words?.meaning_rank ?? explain.rank;

function sayRanks(hit) {
  const { prefix_rank: before, prefix_score: score } = hit.explain;
  const rank = rankAfter(hit);
  const by = score === null ? "" : `, at ${share(score)}`;
  if (before === rank) return `The first pass had it ${ordinal(before)} already${by}; the full vectors agree.`;
  return `The first pass had it ${ordinal(before)}${by}; the full vectors made it ${ordinal(rank)}.`;
}

function sayWords({ words, rank }) {
  const byWords = words.rank === null ? "not among the best by words" : `${ordinal(words.rank)} by words`;
  const byMeaning = words.meaning_rank === null ? "" : `, ${ordinal(words.meaning_rank)} by meaning`;
  return `Words count too: it is ${byWords}${byMeaning}, and ${ordinal(rank)} by both.`;
}

function growthDrawing(hit, others, prefixDim) {
  const scores = scoresOf(hit);
  const all = [hit, ...others].flatMap((each) => scoresOf(each).map(([, score]) => score));
  if (hit.explain.prefix_score !== null) all.push(hit.explain.prefix_score);
  const least = Math.floor(Math.min(...all) * 10) / 10, most = Math.ceil(Math.max(...all) * 10) / 10;
  const [first, last] = [scores[0][0], scores.at(-1)[0]];
  const x = (length) =>
    LEFT + (last > first ? (Math.log(length / first) / Math.log(last / first)) * (WIDE - LEFT - RIGHT) : 0);
  const y = (score) => HIGH - BOTTOM - ((score - least) / (most - least || 1)) * (HIGH - TOP - BOTTOM);
  const line = (each, name) =>
    svg("polyline", { class: name, points: scoresOf(each).map(([length, score]) => `${x(length)},${y(score)}`).join(" ") });
  const steps = [least, (least + most) / 2, most];
  const inPrefix = hit.explain.prefix_score !== null && prefixDim >= first && prefixDim <= last;
  return svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `Score by dimensions: ${
    scores.map(([length, score]) => `${share(score)} at ${length}`).join(", ")}` },
    steps.map((step) => [
      svg("line", { class: "grid", x1: LEFT, x2: WIDE - RIGHT, y1: y(step), y2: y(step) }),
      svg("text", { x: LEFT - 6, y: y(step) + 4, "text-anchor": "end" }, step.toFixed(2)),
    ]).flat(),
    scores.map(([length]) => svg("text", { x: x(length), y: HIGH - 8, "text-anchor": "middle" }, String(length))),
    others.map((each) => line(each, "other")),
    line(hit, "mine"),
    scores.map(([length, score]) => svg("circle", { class: "mine", cx: x(length), cy: y(score), r: 2.5 })),
    inPrefix && svg("path", { class: "prefix", d: diamond(x(prefixDim), y(hit.explain.prefix_score)) },
      svg("title", {}, `First pass: ${share(hit.explain.prefix_score)}`)),
    svg("text", { class: "mine", x: WIDE - RIGHT + 8, y: y(scores.at(-1)[1]) + 4 }, share(scores.at(-1)[1])));
}

function ranksDrawing(hit, others) {
  const ranked = [hit, ...others].filter((each) => each.explain.prefix_rank !== null);
  const deepest = Math.max(10, ...ranked.flatMap((each) => [each.explain.prefix_rank, rankAfter(each)]));
  const y = (rank) => TOP + (Math.log(rank) / Math.log(deepest)) * (HIGH - TOP - BOTTOM); // the first ranks matter most
  const [from, to] = [LEFT + 46, WIDE - RIGHT - 30];
  const line = (each, name) =>
    svg("line", { class: name, x1: from, x2: to, y1: y(each.explain.prefix_rank), y2: y(rankAfter(each)) });
  const [before, rank] = [hit.explain.prefix_rank, rankAfter(hit)];
  return svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `Rank ${before} after the first pass, ${
    rank} after the second` },
    [from, to].map((x) => svg("line", { class: "grid", x1: x, x2: x, y1: TOP - 6, y2: HIGH - BOTTOM + 6 })),
    ranked.slice(1).map((each) => line(each, "other")),
    line(hit, "mine"),
    svg("circle", { class: "mine", cx: from, cy: y(before), r: 3.5 }),
    svg("circle", { class: "mine", cx: to, cy: y(rank), r: 3.5 }),
    svg("text", { class: "mine", x: from - 9, y: y(before) + 4, "text-anchor": "end" }, String(before)),
    svg("text", { class: "mine", x: to + 9, y: y(rank) + 4 }, String(rank)),
    svg("text", { x: from, y: HIGH - 6, "text-anchor": "middle" }, "first pass"),
    svg("text", { x: to, y: HIGH - 6, "text-anchor": "middle" }, "second pass"));
}

const diamond = (x, y) => `M${x - 5} ${y}L${x} ${y - 5}L${x + 5} ${y}L${x} ${y + 5}Z`;

// What stands above the results: how sure they are, and where the time went.

import { el } from "./dom.js";
import { bytes, count, counted, interval, ms, share } from "./format.js";

const STAGES = [
  ["encode", "encode"], ["filter", "filter"], ["first_pass", "first pass"], ["second_pass", "second pass"],
  ["words", "words"], ["fetch", "texts"],
];
export const FEWEST_CHECKED = 20; // live searches; of fewer the interval says nothing
const LEAST_MS = 0.05; // what took less isn't named

/** Whether words counted too, besides the meaning. */
export const isHybrid = (answer) => answer.hits.some((hit) => hit.explain.words !== null);

/** Say how sure the hits are those of a scan of everything: parts of a line. `prove` searches again to be certain. */
export function sayHowSure(answer, wanted, gauge, prove) {
  if (answer.certified) {
    return [el("strong", { class: "sure", title: "No other document can score higher." }, "proved exact")];
  }
  if (wanted.like) return ["by meaning"];
  return [isHybrid(answer) && "by meaning and words · ", ...sayRecall(answer, wanted, gauge, prove)].filter(Boolean);
}

/** How much of what is nearest by meaning was found. */
function sayRecall(answer, wanted, gauge, prove) {
  const again = [" ", el("button", { type: "button", class: "quiet", onclick: prove }, "Prove it")];
  if (wanted.mode === "prefix") return ["first pass alone", ...again];
  if (wanted.mode === "certified") return [`${answer.explain.proved} of them proved`];
  if (gauge?.checked >= FEWEST_CHECKED && !wanted.oversample && !wanted.filter) {
    const { low, high } = gauge.recall;
    const title = `Of ${count(gauge.checked)} live searches, made again over everything; `
      + `95 % of such measurements lie from ${share(low)} to ${share(high)}.`;
    return [el("span", { title }, `measured recall ${interval(gauge.recall)}`), ...again];
  }
  if (answer.explain.measured_recall !== null && !wanted.filter) {
    const title = "Measured on stored passages when the first pass was made.";
    return [el("span", { title }, `measured recall ${share(answer.explain.measured_recall)}`), ...again];
  }
  return ["not proved", ...again];
}

/** Draw the stages of a search as a bar, and name them below. */
export function drawStages({ timings_ms: took, candidates, explain }) {
  const named = STAGES.map(([key, name]) => ({ key, name, took: took[key] ?? 0 }));
  const rest = Math.max(0, took.total - named.reduce((sum, each) => sum + each.took, 0));
  const parts = [...named, { key: "rest", name: "rest", took: rest }].filter((each) => each.took >= LEAST_MS);
  const bar = el("div", { class: "bar", "aria-hidden": "true" }, parts.map((part) => {
    const piece = el("span", { class: `stage ${part.key}`, title: `${part.name} ${ms(part.took)} ms` });
    piece.style.flexGrow = part.took;
    return piece;
  }));
  const read = explain.rows_read
    ? `; ${counted(explain.rows_read, "full vector")} read, ${bytes(explain.bytes_read)}` : "";
  return el("div", { class: "stages" }, bar,
    el("p", { class: "legend" },
      el("span", {}, `${ms(took.total)} ms`),
      parts.map((part) => el("span", { class: `stage-name ${part.key}` }, `${part.name} ${ms(part.took)}`)),
      el("span", {}, `${counted(candidates, "candidate")}${read}`)));
}

// The collection: what is stored, how good its answers are, what is under way, and who may ask.

import { ask, post, Unreachable } from "./api.js";
import { at, el, told } from "./dom.js";
import { bytes, count } from "./format.js";
import { followJob, hasEnded, jobItem, jobProgress } from "./jobs.js";
import { askForKey, forgetKey, storedKey } from "./key.js";
import { drawCurve } from "./curve.js";
import { drawHistory } from "./history.js";
import { drawRecall } from "./recall.js";
import { showSnapshots, startSnapshots } from "./snapshots.js";

const LOOK_MS = 2000; // between two looks, while the view is open and seen
const SHOWN_JOBS = 20;
const HISTORY_MS = 60_000; // between two looks at what was measured; the server writes it down every few minutes
const SHOWN_POINTS = 400; // measurements: 170 kB

let timer = null;
let shownJobs = ""; // the jobs as they are shown: drawn again only when they changed, or a button would lose its focus
let curveOf = null; // the job whose curve is drawn
let shownHistory = ""; // the measurements as they are drawn
let historyAt = -Infinity; // when they were asked for

export function start() {
  at("measure").addEventListener("click", measure);
  at("enter-key").addEventListener("click", () => askForKey("It is sent with each request of this tab.", again, { again: true }));
  at("forget-key").addEventListener("click", () => { forgetKey(); again(); });
  startSnapshots();
}

export function open() {
  again();
  clearInterval(timer);
  timer = setInterval(() => document.visibilityState === "visible" && look(), LOOK_MS);
}

export const close = () => clearInterval(timer);

export function again() {
  showAccess();
  historyAt = -Infinity;
  look();
  showSnapshots();
}

async function look() {
  try {
    const [stats, info, { jobs }] = await Promise.all([ask("stats"), ask("info"), ask("jobs")]);
    at("collection-problem").replaceChildren();
    showFacts(stats, info);
    showRecall(stats, jobs);
    showJobs(jobs);
    await showHistory();
  } catch (error) {
    at("collection-problem").replaceChildren(...(error instanceof Unreachable ? [] : [told(error)])); // that stands above
  }
}

function showFacts(stats, info) {
  const onDisk = Object.values(stats.disk_bytes).reduce((sum, each) => sum + each, 0);
  const plan = stats.first_pass;
  const facts = [
    ["Documents", count(stats.documents), stats.pending ? `${count(stats.pending)} more wait to be encoded` : null],
    ["Passages", count(stats.passages), stats.tombstones ? `${count(stats.tombstones)} deleted vectors keep their room` : null],
    ["In memory", bytes(plan.bytes), `prefixes of ${plan.prefix_dim} dimensions, ${plan.codec}, beside the model`],
    ["On disk", bytes(onDisk), "texts, full vectors and index"],
    ["Model", info.model, `${info.dim} dimensions, stored as ${info.vector_dtype}`],
    ["Server", `twopass ${info.version}`, stats.damage.rows ? `${count(stats.damage.rows)} vectors are damaged` : null],
  ];
  at("facts").replaceChildren(...facts.map(([name, value, more]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value, more && el("span", { class: "small" }, more)))));
}

function showRecall(stats, jobs) {
  const measured = jobs.filter((job) => job.type === "evaluate" && job.status === "done" && job.result.curve);
  at("recall").replaceChildren(...drawRecall(stats));
  at("measure").disabled = jobs.some((job) => job.type === "evaluate" && !hasEnded(job));
  if (measured.length && measured[0].id !== curveOf) {
    curveOf = measured[0].id;
    historyAt = -Infinity; // there is a new point in it
    at("curve").replaceChildren(...drawCurve(measured[0].result));
  }
}

async function showHistory() {
  if (performance.now() - historyAt < HISTORY_MS) return;
  historyAt = performance.now();
  const { points } = await ask(`stats/recall?limit=${SHOWN_POINTS}`);
  const now = JSON.stringify(points);
  if (now === shownHistory) return;
  const place = at("recall-history");
  const isOpen = place.querySelector("details")?.open;
  shownHistory = now;
  place.replaceChildren(...drawHistory(points));
  if (isOpen) place.querySelector("details").open = true;
}

function showJobs(jobs) {
  const now = JSON.stringify(jobs);
  if (now === shownJobs) return;
  shownJobs = now;
  at("jobs").replaceChildren(...(jobs.length
    ? jobs.slice(0, SHOWN_JOBS).map((job) => jobItem(job, look))
    : [el("li", { class: "small" }, "None since the server started. Large additions, rebuilds and measurements show here.")]));
}

async function measure() {
  at("measure").disabled = true;
  const place = at("measuring");
  try {
    const { job } = await post("evaluate", {});
    await followJob(job.id, (now) => {
      const { element, text } = jobProgress([now]);
      place.replaceChildren(element, el("p", { class: "state", role: "status" }, text));
    });
    place.replaceChildren();
    await look();
  } catch (error) {
    place.replaceChildren(told(error));
    at("measure").disabled = false;
  }
}

function showAccess() {
  const key = storedKey();
  at("access").textContent = key
    ? "This tab sends a key, and forgets it when it is closed."
    : "This tab sends no key. Where the server asks for one, this page asks you.";
  at("forget-key").hidden = !key;
}


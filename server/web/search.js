// The search view: one box, answers as you type.

import { ask, post, Unreachable } from "./api.js";
import { at, disclose, el, told } from "./dom.js";
import { addCondition, currentFilter, loadFields, showConditions, startFilters } from "./filters.js";
import { count, counted } from "./format.js";
import { followKeys, hitItem } from "./hits.js";
import { stemsOf } from "./marking.js";
import { drawStages, isHybrid, sayHowSure } from "./summary.js";

const PAUSE_MS = 110; // between two letters; who types faster isn't asked for
const MOST_HITS = 1000; // limits.k, unless the settings say otherwise
const SLOW_MS = 400; // after which it is said that a search is under way
const STATS_MS = 5000; // after which counts and measured recall are asked for again, with the next search
const INCLUDE = ["passage", "metadata", "explain"];

let waiting = null; // the timer of a search to come
let running = null; // the AbortController of the one under way
let like = null; // a document that others like it are wanted of, instead of a question
let hybrid = null; // whether words count too; null: as the server has it, which the switch then shows
let shown = { hits: [], stems: new Set(), prefixDim: null };
let stats = null; // of GET /stats
let statsAt = 0; // ms

export function start() {
  at("query").addEventListener("input", () => { like = null; later(); });
  at("search-form").addEventListener("submit", (event) => { event.preventDefault(); now(); });
  at("how").addEventListener("change", now);
  at("hybrid").addEventListener("change", () => {
    hybrid = at("hybrid").checked;
    now();
  });
  at("how").addEventListener("submit", (event) => event.preventDefault());
  at("how-button").addEventListener("click", () => disclose(at("how-button"), at("how")));
  at("more").firstElementChild.addEventListener("click", more);
  startFilters(now);
  followKeys(at("query"), at("hits"));
}

export function open(parameters, isOther) {
  const [box, question] = [at("query"), parameters.get("q")];
  if (!isOther && (question === null || question === box.value.trim())) return;
  box.value = question ?? box.value;
  box.focus({ preventScroll: true });
  again();
}

export function close() {
  clearTimeout(waiting);
  running?.abort();
}

export function again() {
  loadFields();
  loadStats();
  now();
}

function later() {
  clearTimeout(waiting);
  waiting = setTimeout(now, PAUSE_MS);
}

/** Ask, overtaking a search that is under way. */
async function now() {
  clearTimeout(waiting);
  running?.abort();
  const wanted = request();
  remember(wanted);
  if (!wanted) return showNothing();
  const mine = (running = new AbortController());
  at("hits").setAttribute("aria-busy", "true");
  const slow = setTimeout(sayThatItLasts, SLOW_MS);
  try {
    const answer = await post("search", wanted, mine.signal);
    if (mine !== running) return;
    at("search-problem").replaceChildren(...answer.warnings.map((warning) => el("p", { class: "notice" }, warning)));
    show(answer, wanted);
  } catch (error) {
    if (error.name === "AbortError" || mine !== running) return;
    hideAnswer();
    at("search-problem").replaceChildren(...(error instanceof Unreachable ? [] : [told(error)])); // that stands above
  } finally {
    clearTimeout(slow);
    if (mine === running) at("hits").removeAttribute("aria-busy");
  }
}

function sayThatItLasts() {
  at("summary").hidden = false;
  at("count").textContent = "Searching …";
}

/** The next hits, below those that are shown. */
async function more() {
  const { wanted, hits } = shown;
  const mine = running;
  try {
    const answer = await post("search", { ...wanted, offset: hits.length }, mine?.signal);
    if (mine !== running) return;
    const first = append(answer.hits);
    showCount();
    at("more").hidden = isAll(answer);
    first?.querySelector(".title").focus({ preventScroll: true });
  } catch (error) {
    if (error.name !== "AbortError") at("search-problem").replaceChildren(told(error));
  }
}

/** The body of POST /search; null where nothing is asked for. */
function request() {
  const query = at("query").value.trim();
  if (!query && !like) return null;
  const wanted = { k: Number(at("hits-wanted").value), mode: at("how").elements.mode.value, include: INCLUDE };
  if (like) wanted.like = like;
  else wanted.query = query;
  if (hybrid !== null && !like && wanted.mode !== "certified") wanted.hybrid = hybrid; // with words nothing is proved
  const filter = currentFilter();
  if (filter) wanted.filter = filter;
  const oversample = at("oversample");
  if (oversample.value && oversample.checkValidity()) wanted.oversample = Number(oversample.value);
  return wanted;
}

/** The question stands in the address, behind the #, which no browser sends. */
function remember(wanted) {
  const query = wanted?.query ? `?${new URLSearchParams({ q: wanted.query })}` : "";
  try {
    history.replaceState(null, "", `#search${query}`);
  } catch { /* Safari refuses the hundredth change within half a minute; the next one after that is kept */ }
}

function show(answer, wanted) {
  shown = { hits: [], stems: stemsOf(wanted.query ?? ""), wanted, answer, prefixDim: shown.prefixDim };
  if (answer.hits.length) at("hybrid").checked = isHybrid(answer);
  at("search-empty").replaceChildren();
  at("hits").replaceChildren();
  at("summary").hidden = false;
  append(answer.hits);
  showCount();
  at("stages").replaceChildren(drawStages(answer));
  at("more").hidden = isAll(answer);
  if (performance.now() - statsAt > STATS_MS) loadStats();
  if (!answer.hits.length) at("search-empty").replaceChildren(...nothingFound(wanted));
}

function showCount() {
  const { answer, wanted, hits } = shown;
  at("count").replaceChildren(
    hits.length ? counted(hits.length, "hit") : "No hits",
    wanted.like ? ` like ${wanted.like}` : "",
    stats ? ` of ${counted(stats.documents, "document")}` : "", " · ",
    ...sayHowSure(answer, wanted, stats?.gauge, prove));
}

/** Whether there are no further hits, or as many are shown as may be asked for. */
const isAll = (answer) => answer.hits.length < shown.wanted.k || shown.hits.length + shown.wanted.k > MOST_HITS;

function append(hits) {
  shown.hits.push(...hits);
  const items = hits.map((hit) => hitItem(hit, shown, { onFilter: addCondition, onLike: searchLike }));
  at("hits").append(...items);
  return items[0];
}

function searchLike(id) {
  like = id;
  at("query").value = "";
  now().then(() => at("hits").querySelector(".title")?.focus());
  scrollTo({ top: 0 });
}

function prove() {
  at("how").elements.mode.value = "certified";
  now();
}

function hideAnswer() {
  at("summary").hidden = true;
  at("hits").replaceChildren();
  at("more").hidden = true;
  at("search-empty").replaceChildren();
}

function showNothing() {
  running = null;
  hideAnswer();
  at("search-problem").replaceChildren();
  at("search-empty").replaceChildren(...beginning());
}

async function loadStats() {
  statsAt = performance.now();
  try {
    stats = await ask("stats");
    shown.prefixDim = stats.first_pass.prefix_dim;
    if (!running) at("search-empty").replaceChildren(...beginning());
    else if (shown.answer && !at("summary").hidden) showCount();
  } catch { /* shown where something is asked for */ }
}

/** What to do before anything is asked for. */
function beginning() {
  if (!stats) return [];
  if (!stats.documents && !stats.pending) {
    return [
      el("h2", {}, "Nothing is stored yet"),
      el("p", {}, el("a", { href: "#add" }, "Add files or a text"), ", or run ", el("code", {}, "twopass ingest FOLDER"),
        " on the machine that the server runs on."),
    ];
  }
  return [
    el("p", {}, `${counted(stats.documents, "document")} are here. Ask in your own words: what is found need not hold `
      + "the words you use, only mean the same."),
    stats.pending > 0 && el("p", {}, `${count(stats.pending)} more wait to be encoded.`),
  ].filter(Boolean);
}

function nothingFound(wanted) {
  if (wanted.filter) {
    const clear = el("button", { type: "button", onclick: () => showConditions([]) }, "Search without filters");
    return [el("p", {}, "No document passes the filters."), el("p", {}, clear)];
  }
  return beginning();
}

// A result: its title, where it is from, its best passage with the question's words marked, and why it is there.

import { el } from "./dom.js";
import { share } from "./format.js";
import { placesOf } from "./marking.js";
import { drawGrowth, explanation } from "./why.js";

const SHOWN_CHARACTERS = 420; // of a passage, before the rest is asked for: four or five lines
const BEFORE_FIRST = 90; // characters that are shown before the first marked word
const MOST_CHIPS = 8;

/** Make the list item of a hit. `shown` holds all hits, the question's stems and the prefix's length. */
export function hitItem(hit, shown, { onFilter, onLike }) {
  const why = el("div", { class: "why", hidden: true });
  const title = el("button", { type: "button", class: "title", "aria-expanded": "false" },
    breakable(titleOf(hit)));
  const whyButton = el("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Why");
  const open = () => {
    why.hidden = !why.hidden;
    for (const each of [title, whyButton]) each.setAttribute("aria-expanded", String(!why.hidden));
    if (!why.hidden && !why.firstChild) why.append(...explanation(hit, shown));
  };
  for (const each of [title, whyButton]) each.addEventListener("click", open);
  const scoreButton = el("button", { type: "button", class: "score", tabindex: "-1", "aria-hidden": "true", onclick: open },
    share(hit.score), drawGrowth(hit));
  const likeButton = el("button", { type: "button", class: "quiet like", onclick: () => onLike(hit.id) }, "More like this");
  return el("li", { class: "hit", "data-id": hit.id },
    el("div", { class: "head" }, el("h2", {}, title), scoreButton),
    el("p", { class: "unseen" }, `Score ${share(hit.score)}`),
    titleOf(hit) === hit.id ? null : el("p", { class: "from" }, hit.id),
    passage(hit.passage.text, shown.stems),
    el("div", { class: "foot" }, chips(hit, onFilter), el("span", { class: "acts" }, whyButton, likeButton)),
    why);
}

/** Move between results by the arrow keys, and back to the box. */
export function followKeys(box, list) {
  const titles = () => [...list.querySelectorAll(".title")];
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && titles().length) {
      event.preventDefault();
      titles()[0].focus();
    }
  });
  list.addEventListener("keydown", (event) => {
    const item = event.target.closest(".hit");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const next = step > 0 ? item.nextElementSibling : item.previousElementSibling;
      (next?.querySelector(".title") ?? (step < 0 ? box : event.target)).focus();
    } else if (event.key === "Escape") {
      box.focus();
      box.select();
    } else if (event.key === "l") item.querySelector(".like").click();
  });
}

const titleOf = (hit) => {
  const title = hit.metadata.title;
  return typeof title === "string" && title.trim() ? title : hit.id;
};

/** A path or a dotted name, that breaks behind its signs rather than in its words. */
const breakable = (name) => name.split(/(?<=[./_#])(?=.)/).flatMap((part, n) => (n ? [el("wbr"), part] : [part]));

function passage(text, stems) {
  if (text === null) return el("p", { class: "passage none" }, "A vector without a text.");
  const places = placesOf(stems, text);
  const from = begin(text, places);
  const to = end(text, from);
  const short = el("p", { class: "passage" },
    from > 0 && "… ", marked(text, places, from, to), to < text.length && " …");
  if (from === 0 && to === text.length) return short;
  const button = el("button", { type: "button", class: "quiet" }, "Whole passage");
  const box = el("div", {}, short, button);
  button.addEventListener("click", () => {
    box.replaceChildren(el("p", { class: "passage whole" }, marked(text, places, 0, text.length)));
  });
  return box;
}

/** Where to begin, that the first marked word is seen. */
function begin(text, places) {
  const first = places[0]?.[0] ?? 0;
  if (text.length <= SHOWN_CHARACTERS || first < SHOWN_CHARACTERS - BEFORE_FIRST) return 0;
  return text.indexOf(" ", first - BEFORE_FIRST) + 1;
}

function end(text, from) {
  if (text.length - from <= SHOWN_CHARACTERS + 60) return text.length;
  const space = text.lastIndexOf(" ", from + SHOWN_CHARACTERS);
  return space > from ? space : from + SHOWN_CHARACTERS;
}

function marked(text, places, from, to) {
  const parts = [];
  let done = from;
  for (const [first, last] of places) {
    if (first < from || last > to) continue;
    parts.push(text.slice(done, first), el("mark", {}, text.slice(first, last)));
    done = last;
  }
  return [...parts, text.slice(done, to)];
}

/** The metadata as buttons that add a filter. */
function chips(hit, onFilter) {
  const entries = Object.entries(hit.metadata)
    .filter(([name, value]) => name !== "title" && value !== hit.id)
    .flatMap(([name, value]) => (Array.isArray(value) ? value.slice(0, 3) : [value]).map((each) => [name, each]))
    .filter(([, value]) => ["string", "number", "boolean"].includes(typeof value) && String(value).length < 60);
  return el("ul", { class: "chips", "aria-label": "Metadata" }, entries.slice(0, MOST_CHIPS).map(([name, value]) =>
    el("li", {}, el("button", {
      type: "button", class: "chip", title: `Only where ${name} is ${value}`,
      onclick: () => onFilter({ path: spelled(name), operator: "$eq", value }),
    }, el("span", {}, name), " ", String(value)))));
}

/** A key as filters spell it. */
const spelled = (key) => key.replace(/[\\.]/g, "\\$&").replace(/^\$/, "\\$");

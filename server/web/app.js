// The page: which view is open, and what concerns all of them.

import { signals } from "./api.js";
import * as add from "./add.js";
import * as collection from "./collection.js";
import { at } from "./dom.js";
import { askForKey } from "./key.js";
import * as search from "./search.js";

const views = { search, add, collection };
let current = null;

/** Show the view that the address names: #search?q=…, #add or #collection. */
function show() {
  const [name, rest] = location.hash.slice(1).split("?", 2);
  const wanted = name in views ? name : "search";
  if (wanted !== current) {
    views[current]?.close();
    for (const each of Object.keys(views)) at(`${each}-view`).hidden = each !== wanted;
    for (const link of document.querySelectorAll("nav a")) {
      if (link.hash === `#${wanted}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    document.title = wanted === "search" ? "twopass" : `${wanted[0].toUpperCase()}${wanted.slice(1)} · twopass`;
  }
  const isOther = wanted !== current;
  current = wanted;
  views[wanted].open(new URLSearchParams(rest ?? ""), isOther);
}

const again = () => views[current].again();

signals.addEventListener("key", ({ detail }) => askForKey(`${detail.message}.`, again));
signals.addEventListener("gone", () => { at("offline").hidden = false; });
signals.addEventListener("back", () => { at("offline").hidden = true; again(); });

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, select, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    event.preventDefault();
    if (current !== "search") location.hash = "search";
    at("query").focus();
  } else if (event.key === "?") at("keys-dialog").showModal();
});
at("keys-button").addEventListener("click", () => at("keys-dialog").showModal());
document.querySelector(".skip").addEventListener("click", () => at("query").focus());

for (const view of Object.values(views)) view.start();
addEventListener("hashchange", show);
show();

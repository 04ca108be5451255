// Snapshots: shown only where the server has the route for them.

import { ask, post, send } from "./api.js";
import { at, el, told } from "./dom.js";
import { bytes, counted, moment } from "./format.js";
import { followJob, jobProgress } from "./jobs.js";
import { storedKey } from "./key.js";

export function startSnapshots() {
  at("take-snapshot").addEventListener("click", take);
}

/** List the snapshots that there are. */
export async function showSnapshots() {
  const { paths } = await ask("openapi.json").catch(() => ({ paths: {} }));
  at("snapshots").hidden = !paths["/snapshots"];
  if (at("snapshots").hidden) return;
  try {
    const { snapshots } = await ask("snapshots");
    at("snapshot-list").replaceChildren(snapshots.length
      ? el("ul", { class: "jobs" }, snapshots.toReversed().map(item))
      : el("p", { class: "small" }, "None yet. A snapshot is a copy of everything, taken while the server goes on."));
  } catch (error) {
    at("snapshot-list").replaceChildren(told(error));
  }
}

async function take() {
  at("take-snapshot").disabled = true;
  const place = el("div");
  at("snapshot-list").append(place);
  try {
    const { job } = await post("snapshots");
    const last = await followJob(job.id, (now) => {
      const { element, text } = jobProgress([now]);
      place.replaceChildren(element, el("p", { class: "state", role: "status" }, text));
    });
    if (last.error) place.replaceChildren(told({ title: "The snapshot failed", message: last.error }));
    else await showSnapshots();
  } catch (error) {
    place.replaceChildren(told(error));
  } finally {
    at("take-snapshot").disabled = false;
  }
}

function item({ name, bytes: size, created_at: created, documents, error }) {
  const path = `snapshots/${encodeURIComponent(name)}`;
  // A link sends no key: with one the file is fetched first.
  const link = storedKey()
    ? el("button", { type: "button", onclick: (event) => download(path, name, event.target) }, "Download")
    : el("a", { href: path, download: name }, "Download");
  const facts = [created && moment(created), documents !== undefined && counted(documents, "document"),
    bytes(size)];
  return el("li", { class: "job" }, el("p", { class: "job-head" }, el("b", {}, name),
    el("span", { class: "small" }, facts.filter(Boolean).join(" · "))),
  error ? el("p", { class: "problem" }, error) : el("p", {}, link));
}

async function download(path, name, button) {
  button.disabled = true;
  try {
    const address = URL.createObjectURL(await (await send(path)).blob());
    el("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } catch (error) {
    button.after(told(error));
  } finally {
    button.disabled = false;
  }
}

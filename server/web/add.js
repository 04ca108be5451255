// The view to add documents: dropped, chosen or pasted; then how far they are, and what was skipped.

import { ask, send } from "./api.js";
import { at, el, told } from "./dom.js";
import { chosenFiles, droppedFiles } from "./dropped.js";
import { count, counted } from "./format.js";
import { followJob, jobProgress } from "./jobs.js";
import { KINDS, readFile, Unreadable } from "./reading.js";

const REQUEST_BYTES = 8 << 20; // of documents in one request, and so in one job
const MOST_LISTED = 100; // skipped files that are named
const LIMIT_BYTES = 32 << 20; // limits.body_bytes, until the server has said its own

let retry = null; // lets an addition that stands still go on

export function start() {
  at("kinds").textContent = KINDS.join(" ");
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    at(button).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", () => {
      add(chosenFiles(at(input)));
      at(input).value = "";
    });
  }
  at("paste").addEventListener("submit", (event) => {
    event.preventDefault();
    const [text, title] = [at("paste-text").value, at("paste-title").value.trim()];
    addTexts([{ text, metadata: title ? { title } : {} }]);
    at("paste").reset();
  });
  startDrops();
}

export const open = (_, isOther) => isOther && at("add-title").scrollIntoView({ block: "nearest" });
export const close = () => {};
export const again = () => retry?.();

/** The whole page takes drops, in every view. */
function startDrops() {
  let depth = 0; // elements that the pointer is over: each one entered and left tells it
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const over = (change) => {
    depth = Math.max(0, depth + change);
    at("drop-here").hidden = depth === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && over(1));
  addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
  addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    over(-depth);
    const files = droppedFiles(event.dataTransfer);
    location.hash = "add";
    add(await files);
  });
}

/** Read files, send them, and show what becomes of them. */
async function add(files) {
  if (!files.length) return;
  const card = makeCard(files.length === 1 ? files[0].path : counted(files.length, "file"));
  const limit = await ask("info").then((info) => info.limits.body_bytes, () => LIMIT_BYTES);
  await run(card, batchesOf(files, limit, card));
}

async function addTexts(documents) {
  const card = makeCard(documents[0].metadata.title ?? "A text");
  await run(card, [documents.map(written)]);
}

async function run(card, batches) {
  for await (const batch of batches) await persist(card, () => sendBatch(card, batch));
  if (!card.jobs.length) card.say(card.skipped.length ? "Nothing to add." : "Done.");
  for (const job of card.jobs) await persist(card, () => follow(card, job));
}

/** Try until it works: what fails is shown with a button to go on, and goes on when the server is back. */
async function persist(card, attempt) {
  for (;;) {
    try {
      const result = await attempt();
      card.problem.replaceChildren();
      return result;
    } catch (error) {
      await new Promise((goOn) => {
        retry = goOn;
        card.problem.replaceChildren(told(error),
          el("button", { type: "button", onclick: goOn }, "Try again"));
      });
    }
  }
}

const encoder = new TextEncoder();
const written = (document) => {
  const line = JSON.stringify(document);
  return { source: document.id ?? "the text", line, size: encoder.encode(line).length + 1 };
};

/** Yield the documents of files as lines of JSON, as many at a time as go into one request. */
async function* batchesOf(files, limitBytes, card) {
  let batch = [], size = 0, done = 0;
  for (const { file, path } of files) {
    done += 1;
    card.say(`Reading ${count(done)} of ${counted(files.length, "file")}`);
    const { documents, skipped } = await readFile(file, path, limitBytes).catch((error) => ({
      documents: [], skipped: [{ source: path, reason: error instanceof Unreadable ? error.message : String(error) }],
    }));
    card.skip(skipped);
    for (const each of documents.map(written)) {
      if (batch.length && size + each.size > REQUEST_BYTES) {
        yield batch;
        [batch, size] = [[], 0];
      }
      batch.push(each);
      size += each.size;
    }
  }
  if (batch.length) yield batch;
}

/** Have the server accept a batch. A line that it refuses is skipped, and the others are sent again. */
async function sendBatch(card, batch) {
  let lines = batch;
  while (lines.length) {
    card.say(`Sending ${counted(lines.length, "document")}`);
    try {
      const body = new Blob(lines.map((each) => `${each.line}\n`));
      const response = await send("documents?wait=false", { method: "POST", body, type: "application/x-ndjson" });
      const { job, warnings } = await response.json();
      card.jobs.push(job);
      card.warn(warnings);
      return;
    } catch (error) {
      const number = Number(/line (\d+)/.exec(`${error.where ?? ""} ${error.message}`)?.[1]);
      if (![413, 422].includes(error.status) || !lines[number - 1]) throw error;
      card.skip([{ source: lines[number - 1].source, reason: error.message }]);
      lines = lines.toSpliced(number - 1, 1);
    }
  }
}

async function follow(card, { id }) {
  await followJob(id, (job) => {
    card.jobs = card.jobs.map((each) => (each.id === id ? job : each));
    card.show();
    if (job.status === "done" || job.status === "failed" || job.status === "cancelled") card.settle(job);
  });
}

/** What is told of one addition: its state, its jobs' progress, what came of it, and what was skipped. */
function makeCard(name) {
  const state = el("p", { class: "state" }, "Reading");
  const progress = el("div");
  const problem = el("div");
  const skippedTitle = el("summary");
  const skippedList = el("ul");
  const skippedBox = el("details", { class: "skipped", hidden: true }, skippedTitle, skippedList);
  at("additions").prepend(el("article", { class: "card" }, el("h2", {}, name), progress, state, problem, skippedBox));
  const totals = { created: 0, updated: 0, unchanged: 0 };
  const card = {
    jobs: [],
    skipped: [],
    problem,
    say(text) { state.textContent = text; },
    warn(warnings) { problem.append(...warnings.map((warning) => el("p", { class: "notice" }, warning))); },
    skip(more) {
      card.skipped.push(...more);
      skippedBox.hidden = !card.skipped.length;
      skippedTitle.textContent = `${counted(card.skipped.length, "thing")} skipped`;
      const room = MOST_LISTED - skippedList.children.length;
      skippedList.append(...more.slice(0, Math.max(0, room)).map(({ source, reason }) =>
        el("li", {}, el("b", {}, source), ` ${reason}`)));
    },
    show() {
      const { element, text } = jobProgress(card.jobs);
      progress.replaceChildren(element);
      card.say(text);
    },
    settle({ status, result, error }) {
      for (const each of Object.keys(totals)) totals[each] += result?.[each] ?? 0;
      card.skip((result?.failed?.documents ?? []).map(({ id, reason }) => ({ source: id, reason })));
      if (status !== "done") problem.replaceChildren(told({ title: `The job is ${status}`, message: error ?? "" }));
      else if (card.jobs.every((job) => job.status === "done")) {
        const found = Object.entries(totals).filter(([, n]) => n).map(([what, n]) => `${count(n)} ${what}`);
        state.replaceChildren(`Done: ${found.join(", ") || "nothing new"}. `, el("a", { href: "#search" }, "Search"));
      }
    },
  };
  return card;
}

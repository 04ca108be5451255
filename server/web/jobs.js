// Jobs: followed by server-sent events, and steered.

import { events, post, Problem } from "./api.js";
import { el, told } from "./dom.js";
import { bytes, count, moment, seconds } from "./format.js";

const PAUSE_MS = 1000; // before a broken connection is tried again
const ENDED = ["done", "failed", "cancelled"];

export const hasEnded = (job) => ENDED.includes(job.status);

/** Call `onChange` with the job now and after each change, until it has ended. Raises Problem. */
export async function followJob(id, onChange, signal) {
  for (;;) {
    try {
      for await (const job of events(`jobs/${id}/events`, signal)) {
        onChange(job);
        if (hasEnded(job)) return job;
      }
    } catch (error) {
      if (error instanceof Problem || error.name === "AbortError") throw error;
    }
    await new Promise((goOn) => { setTimeout(goOn, PAUSE_MS); });
  }
}

/** How far some jobs are together: {element, text}. */
export function jobProgress(jobs) {
  const done = jobs.reduce((sum, { progress }) => sum + progress.done, 0);
  const total = jobs.reduce((sum, { progress }) => sum + progress.total, 0);
  const { unit } = jobs[0].progress;
  const amount = (n) => (unit === "bytes" ? bytes(n) : count(Math.round(n)));
  const current = jobs.find((job) => !hasEnded(job)) ?? jobs.at(-1);
  const { rate } = current.progress;
  const left = rate ? (total - done) / rate : null;
  return {
    element: el("progress", { max: Math.max(total, 1), value: total ? done : hasEnded(current) ? 1 : 0, "aria-label": "Progress" }),
    text: [
      `${current.status}${current.stage ? `, ${current.stage}` : ""}`,
      total > 0 && `${amount(done)} of ${amount(total)}${unit === "bytes" ? "" : ` ${unit}`}`,
      rate && `${rate < 10 ? rate.toFixed(1) : amount(rate)} a second`,
      left && left > 0 && `${seconds(left)} left`,
    ].filter(Boolean).join(" · "),
  };
}

const NAMES = { ingest: "Add documents", reembed: "Change of the model", rebuild: "Rebuild of the index",
  evaluate: "Measurement of recall", index_metadata: "Index of a field", backup: "Snapshot", compact: "Compaction" };

/** Make the list item of a job; `onAsked` is called after something was asked of it. */
export function jobItem(job, onAsked) {
  const { element, text } = jobProgress([job]);
  const item = el("li", { class: `job ${job.status}`, "data-id": job.id });
  const button = (what, name) => el("button", { type: "button", onclick: async () => {
    try {
      await post(`jobs/${job.id}/${what}`);
    } catch (error) {
      item.append(told(error));
      return;
    }
    onAsked();
  } }, name);
  const isDurable = job.type === "ingest" || job.type === "reembed";
  const steering = hasEnded(job) ? [] : [
    isDurable && (job.status === "paused" ? button("resume", "Go on") : button("pause", "Pause")),
    button("cancel", "Cancel"),
  ];
  item.append(...[
    el("p", { class: "job-head" }, el("b", {}, NAMES[job.type] ?? job.type),
      el("time", { datetime: job.created_at, class: "small" }, moment(job.created_at))),
    !hasEnded(job) && element,
    el("p", { class: "state" }, text),
    job.error && el("p", { class: "problem" }, job.error),
    ...outcome(job),
    steering.length > 0 && el("p", { class: "choices" }, steering),
  ].filter(Boolean));
  return item;
}

function outcome({ type, result }) {
  if (!result) return [];
  const parts = ["created", "updated", "unchanged", "overtaken"].filter((name) => result[name])
    .map((name) => `${count(result[name])} ${name}`);
  const failed = type === "ingest" && result.failed ? result.failed : null;
  return [
    parts.length > 0 && el("p", { class: "small" }, parts.join(", ")),
    failed && el("details", { class: "skipped" }, el("summary", {}, `${count(failed.count)} failed`),
      el("ul", {}, failed.documents.map(({ id, reason }) => el("li", {}, el("b", {}, id), ` ${reason}`)))),
  ];
}

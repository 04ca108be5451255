// Files and folders that were dropped or chosen, each with its path.

/** The files of a drop: [{file, path}]. To be called before the event has ended: its items are gone after that. */
export function droppedFiles(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  return Promise.all(items.map((item) => {
    const entry = item.webkitGetAsEntry?.();
    return entry ? inside(entry) : [named(item.getAsFile())];
  })).then((lists) => lists.flat());
}

/** The files of an <input type="file">. */
export const chosenFiles = (input) => [...input.files].map(named);

const named = (file) => ({ file, path: file.webkitRelativePath || file.name });

async function inside(entry) {
  if (entry.isFile) {
    const file = await new Promise((take, fail) => { entry.file(take, fail); }).catch(() => null);
    const path = entry.fullPath.replace(/^\//, "");
    return file ? [{ file, path }] : [{ file: unreadable(entry.name), path }];
  }
  const reader = entry.createReader();
  const entries = [];
  for (let more = await next(reader); more.length; more = await next(reader)) entries.push(...more);
  entries.sort((a, b) => (a.name < b.name ? -1 : 1));
  const visible = entries.filter(({ name }) => !name.startsWith("."));
  return (await Promise.all(visible.map(inside))).flat();
}

/** Browsers give a folder's entries a hundred at a time. */
const next = (reader) => new Promise((take) => { reader.readEntries(take, () => take([])); });

/** Stands for a file that the browser may not open: reading it fails, and so it is told as skipped. */
const unreadable = (name) => ({ name, size: 0, arrayBuffer: () => Promise.reject(new Error(name)) });

// Files of a browser as documents. What can't be read is refused with the reason, in the words of `twopass ingest`.

import { mailOf } from "./mail.js";
import { rowsOf } from "./tables.js";

/** This can't become a document; the message says why. */
export class Unreadable extends Error {}

// How each kind of file becomes [{id, text, metadata}].
const READERS = {
  txt: asText, md: asText, rst: asText, html: asPage, htm: asPage, jsonl: asLines, json: asJson, csv: asTable, eml: asMail,
};

/** The endings of files that are read here. */
export const KINDS = Object.keys(READERS).map((kind) => `.${kind}`);

/** Endings of files that only the command on the owner's machine reads. */
const COMMANDS = ["pdf", "docx", "pptx", "xlsx", "epub", "msg"];

/** Return the documents of a file, and what of it was left out: {documents, skipped: [{source, reason}]}. */
export async function readFile(file, path, limitBytes) {
  const kind = /\.([^./]+)$/.exec(path)?.[1].toLowerCase() ?? "";
  const read = READERS[kind];
  if (COMMANDS.includes(kind)) throw new Unreadable("can’t be read here; the command “twopass ingest” reads it");
  if (!read) {
    throw new Unreadable(`${kind ? `.${kind}` : "a file without an ending"} can’t be read; save it as text or HTML`);
  }
  if (file.size > limitBytes) throw new Unreadable(`is larger than a request may be (${limitBytes >> 20} MiB); split it`);
  let content;
  try {
    content = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Unreadable("can’t be read; may this browser open it?");
  }
  const skipped = [];
  const documents = read(content, path, (source, reason) => skipped.push({ source, reason }));
  return { documents, skipped };
}

/** Decode UTF-8. */
export function decode(content) {
  if ((content[0] === 0xff && content[1] === 0xfe) || (content[0] === 0xfe && content[1] === 0xff)) {
    throw new Unreadable("is UTF-16; save it as UTF-8");
  }
  if (content.includes(0)) throw new Unreadable("is binary, not text");
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(content);
  } catch {
    throw new Unreadable("is not UTF-8; save it as UTF-8");
  }
  if (!text.trim()) throw new Unreadable("is empty");
  return text;
}

/** A document with its path, and its title where it has one. */
const documentOf = (path, text, title, more = {}) =>
  [{ id: path, text, metadata: { path, ...(title ? { title } : {}), ...more } }];

function asText(content, path) {
  const text = decode(content);
  const heading = path.toLowerCase().endsWith(".md") ? /^\s*#[ \t]+(\S[^\r\n]*?)[ \t]*#*[ \t]*(?:\r?\n|$)/.exec(text) : null;
  return documentOf(path, text, heading?.[1]);
}

function asPage(content, path) {
  const { title, text } = pageText(decode(content));
  if (!text) throw new Unreadable("has no text");
  return documentOf(path, text, title);
}

const DROPPED = "script, style, template, svg, noscript, head";
const BLOCKS = /^(?:P|H[1-6]|UL|OL|DL|TABLE|PRE|BLOCKQUOTE|SECTION|ARTICLE|HEADER|FOOTER|NAV|ASIDE|MAIN|FIGURE|FORM|HR)$/;
const LINES = /^(?:BR|DIV|LI|TR|DT|DD|FIGCAPTION|CAPTION|LEGEND|OPTION|SUMMARY|LABEL)$/;

/** A web page's title and text, a line for each block. The parsed page is inert: nothing of it is run or loaded. */
export function pageText(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  const title = page.title.trim();
  for (const each of page.querySelectorAll(DROPPED)) each.remove();
  const parts = [];
  const walk = (node) => {
    if (node.nodeType === Node.TEXT_NODE) parts.push(node.data.replace(/\s+/g, " "));
    const breaks = BLOCKS.test(node.nodeName) ? "\n\n" : LINES.test(node.nodeName) ? "\n" : "";
    parts.push(breaks);
    node.childNodes.forEach(walk);
    parts.push(/^T[DH]$/.test(node.nodeName) ? "\t" : breaks);
  };
  walk(page.body);
  const text = parts.join("").replace(/[ \t]*\n[ \t]*/g, "\n").replace(/\n{3,}/g, "\n\n").trim();
  return { title, text };
}

function asLines(content, path, skip) {
  const documents = [];
  decode(content).split("\n").forEach((line, n) => {
    if (!line.trim()) return;
    try {
      documents.push(fromObject(JSON.parse(line), path, `${path}#${n + 1}`));
    } catch (error) {
      skip(`${path}, line ${n + 1}`, error instanceof Unreadable ? error.message : "is not JSON");
    }
  });
  return documents;
}

function asJson(content, path, skip) {
  const text = decode(content);
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Unreadable("is not JSON");
  }
  const list = Array.isArray(value) ? value : Array.isArray(value?.documents) ? value.documents : null;
  if (!list?.some((each) => typeof each?.text === "string")) return documentOf(path, text);
  const documents = [];
  list.forEach((each, n) => {
    try {
      documents.push(fromObject(each, path, `${path}#${n + 1}`));
    } catch (error) {
      skip(`${path}, item ${n + 1}`, error.message);
    }
  });
  return documents;
}

function fromObject(value, path, id) {
  if (typeof value?.text !== "string" || !value.text.trim()) throw new Unreadable("has no text");
  const metadata = value.metadata && typeof value.metadata === "object" ? value.metadata : {};
  return { id: typeof value.id === "string" && value.id ? value.id : id, text: value.text, metadata: { path, ...metadata } };
}

/** A table: a document for each row, whose columns are its metadata too. */
function asTable(content, path) {
  const documents = rowsOf(decode(content)).map(({ number, cells }) => ({
    id: `${path}#${number}`,
    text: cells.map(([name, value]) => `${name}: ${value}`).join("\n"),
    metadata: { path, ...Object.fromEntries(cells.filter(([, value]) => value.length <= 100).map(
      ([name, value]) => [name, String(Number(value)) === value ? Number(value) : value])) },
  }));
  if (!documents.length) throw new Unreadable("has no rows below its first line");
  return documents;
}

function asMail(content, path, skip) {
  const { subject, text, from, date, attachments } = mailOf(content, pageText);
  for (const name of attachments) skip(`${path}, ${name}`, "attachments are not read here; the command “twopass ingest” reads them");
  if (!text.trim()) throw new Unreadable("has no text");
  return documentOf(path, text, subject, { ...(from ? { from } : {}), ...(date ? { date } : {}) });
}

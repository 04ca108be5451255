// An e-mail as text: RFC 5322, MIME and encoded words, as far as reading needs them.

const latin = new TextDecoder("latin1"); // a character for each byte: the structure of a mail is ASCII

/** Return {subject, from, date, text, attachments}: the plain part, or what `pageText` makes of the HTML one. */
export function mailOf(content, pageText) {
  const mail = partOf(latin.decode(content));
  const leaves = [...leavesOf(mail)];
  const isText = (leaf, type) => leaf.type === type && !leaf.fileName;
  const plain = leaves.filter((leaf) => isText(leaf, "text/plain"));
  const html = leaves.filter((leaf) => isText(leaf, "text/html"));
  const text = plain.length ? plain.map(textOf).join("\n\n") : html.map((leaf) => pageText(textOf(leaf)).text).join("\n\n");
  const sent = new Date(mail.headers.date ?? "");
  return {
    subject: words(mail.headers.subject ?? "").trim(),
    from: words(mail.headers.from ?? "").trim(),
    date: Number.isNaN(sent.getTime()) ? "" : sent.toISOString(),
    text: text.replace(/\r\n/g, "\n").trim(),
    attachments: leaves.filter((leaf) => leaf.fileName).map((leaf) => leaf.fileName),
  };
}

function partOf(raw) {
  const end = /\r?\n\r?\n/.exec(raw);
  const head = end ? raw.slice(0, end.index) : raw;
  const headers = {};
  for (const line of head.replace(/\r?\n[ \t]+/g, " ").split(/\r?\n/)) {
    const colon = line.indexOf(":");
    if (colon > 0) headers[line.slice(0, colon).toLowerCase()] ??= line.slice(colon + 1).trim();
  }
  const contentType = headers["content-type"] ?? "text/plain";
  return {
    headers,
    type: contentType.split(";")[0].trim().toLowerCase(),
    boundary: parameter(contentType, "boundary"),
    charset: parameter(contentType, "charset") ?? "utf-8",
    fileName: words(parameter(headers["content-disposition"] ?? "", "filename") ?? parameter(contentType, "name") ?? ""),
    body: end ? raw.slice(end.index + end[0].length) : "",
  };
}

const parameter = (header, name) => {
  const found = new RegExp(`;\\s*${name}\\*?=(?:"([^"]*)"|([^;\\s]+))`, "i").exec(header);
  return found ? found[1] ?? found[2] : undefined;
};

function* leavesOf(part, depth = 0) {
  if (!part.type.startsWith("multipart/") || !part.boundary || depth > 20) {
    yield part;
    return;
  }
  for (const inner of `\n${part.body}`.split(`\n--${part.boundary}`).slice(1)) {
    if (inner.startsWith("--")) return;
    yield* leavesOf(partOf(inner.replace(/^[^\n]*\n/, "")), depth + 1);
  }
}

function textOf({ headers, charset, body }) {
  const coding = (headers["content-transfer-encoding"] ?? "").toLowerCase();
  if (coding === "base64") return decoded(unbase64(body), charset);
  return decoded(coding === "quoted-printable" ? unquoted(body.replace(/[ \t]*=\r?\n/g, "")) : body, charset);
}

/** Resolve =?utf-8?Q?…?= in a header. */
function words(header) {
  return header.replace(/\?=\s+=\?/g, "?==?").replace(/=\?([^?*]+)(?:\*[^?]*)?\?([BQ])\?([^?]*)\?=/gi, (_, charset, kind, text) =>
    decoded(kind.toUpperCase() === "B" ? unbase64(text) : unquoted(text.replace(/_/g, " ")), charset));
}

const unquoted = (text) => text.replace(/=([0-9A-F]{2})/gi, (_, code) => String.fromCharCode(parseInt(code, 16)));

function unbase64(text) {
  try {
    return atob(text.replace(/[^A-Za-z0-9+/]/g, ""));
  } catch {
    return "";
  }
}

/** Characters that are bytes, in the charset that the mail names. */
function decoded(text, charset) {
  const content = Uint8Array.from(text, (character) => character.charCodeAt(0));
  try {
    return new TextDecoder(charset).decode(content);
  } catch {
    return new TextDecoder().decode(content); // a charset that nobody knows
  }
}

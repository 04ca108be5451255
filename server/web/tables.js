// Tables as text: comma-separated values, as RFC 4180 and spreadsheets have them.

/** The rows below the first, which names the columns: [{number, cells: [[name, value], …]}], without empty cells. */
export function rowsOf(text) {
  const [names, ...rows] = parsed(text, delimiterOf(text));
  return rows
    .map((row, n) => ({ number: n + 2, cells: row.map((value, at) => [names[at]?.trim() || `column ${at + 1}`, value.trim()]) }))
    .map(({ number, cells }) => ({ number, cells: cells.filter(([, value]) => value) }))
    .filter(({ cells }) => cells.length);
}

/** Which of , ; and tab the first line has most of. */
function delimiterOf(text) {
  const first = text.slice(0, (text.indexOf("\n") + 1 || text.length + 1) - 1);
  const found = (sign) => first.split(sign).length;
  return [",", ";", "\t"].reduce((best, sign) => (found(sign) > found(best) ? sign : best));
}

function parsed(text, delimiter) {
  const rows = [[""]];
  let isQuoted = false;
  for (let at = 0; at < text.length; at += 1) {
    const sign = text[at], row = rows.at(-1);
    if (isQuoted) {
      if (sign !== '"') row[row.length - 1] += sign;
      else if (text[at + 1] === '"') { row[row.length - 1] += '"'; at += 1; }
      else isQuoted = false;
    } else if (sign === '"' && !row.at(-1)) isQuoted = true;
    else if (sign === delimiter) row.push("");
    else if (sign === "\n") rows.push([""]);
    else if (sign !== "\r") row[row.length - 1] += sign;
  }
  return rows;
}

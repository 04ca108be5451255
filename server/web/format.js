// Numbers as people read them.

const whole = new Intl.NumberFormat("en");

/** 6512 → "6,512" */
export const count = (n) => whole.format(n);

/** "1 hit", "6,512 hits" */
export const counted = (n, thing) => `${count(n)} ${thing}${n === 1 ? "" : "s"}`;

/** A cosine, or another share: "0.620" */
export const share = (value, digits = 3) => value.toFixed(digits);

/** Milliseconds: "0.24", "3.1", "128" */
export const ms = (value) => (value < 1 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0));

/** "0 B", "4.2 MB" */
export function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = n < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(n) / 3));
  const value = n / 1000 ** power;
  return `${power && value < 10 ? value.toFixed(1) : Math.round(value)} ${units[power]}`;
}

/** Seconds left: "8 s", "3 min", "2.5 h" */
export function seconds(s) {
  if (s < 90) return `${Math.ceil(s)} s`;
  return s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
}

/** A day and time of the server's, as people here write it. */
export const moment = (iso) => new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** "0.997 ± 0.002": the mean and the wider side of its interval. */
export function interval({ mean, low, high }) {
  return `${share(mean)} ± ${share(Math.max(mean - low, high - mean))}`;
}

/** 1 → "1st" */
export function ordinal(n) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${count(n)}${ending[new Intl.PluralRules("en", { type: "ordinal" }).select(n)]}`;
}

// Scales of plots: how wide a plot may be, and round numbers for its axis.

const WIDEST = 640; // units, which are pixels where there is room
const MARGINS = 40; // pixels beside a plot on a phone

/** The width of a plot here, in units of its drawing, so that its letters stay as large as those around it. */
export const roomFor = () => Math.max(280, Math.min(WIDEST, document.documentElement.clientWidth - MARGINS));

/** Round shares from just below `least` up to 1, with at most so many steps: [0.85, 0.9, 0.95, 1]. */
export function sharesFrom(least, steps) {
  const step = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1].find((each) => (1 - least) / each <= steps) ?? 0.25;
  const n = Math.max(1, Math.ceil((1 - least) / step - 1e-9));
  return Array.from({ length: n + 1 }, (_, at) => 1 - (n - at) * step);
}

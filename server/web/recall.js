// Measured recall as it is now: of live searches, and what was expected of the index.

import { el } from "./dom.js";
import { count, interval, share } from "./format.js";
import { FEWEST_CHECKED } from "./summary.js";

/** What is known of recall, in sentences. */
export function drawRecall(stats) {
  const { gauge } = stats;
  const expected = stats.first_pass.evidence?.calibration;
  const isTelling = gauge.checked >= FEWEST_CHECKED;
  const lines = [];
  if (isTelling) {
    lines.push(el("p", { class: "figure" }, el("b", {}, interval(gauge.recall)),
      ` of the true nearest were found by the last ${count(gauge.checked)} live searches that were checked.`));
  } else if (gauge.share) {
    lines.push(el("p", {}, `${share(gauge.share * 100, gauge.share < 0.01 ? 2 : 0)} % of live searches are made again exactly, `
      + `when the server has time. ${count(gauge.checked)} were so far; ${FEWEST_CHECKED} tell something.`));
  } else lines.push(el("p", {}, "Live searches aren’t checked here: the setting index.gauge_share is 0."));
  if (expected?.pool_recall) {
    const at = expected.pool_recall[String(stats.first_pass.oversample)];
    if (at !== undefined) {
      lines.push(el("p", { class: "small" }, `When the index was made, ${share(at)} of the true nearest were among the candidates.`));
    }
  }
  return lines;
}

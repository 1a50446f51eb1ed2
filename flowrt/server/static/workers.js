// The worker processes of executors: the one that crashed last comes first.

import { $, fill, make, put } from "./dom.js";
import { bytes, clock, count, percent } from "./format.js";

function restartsOf(worker) {
  const reasons = Object.entries(worker.restarts);
  return reasons.length ? reasons.map(([reason, times]) => `${count(times)} ${reason}`).join(", ") : "0";
}

// Between batches nothing reads what a worker sends that starts.
function busyOf(worker) {
  if (!worker.ready) return worker.in_use ? "not ready" : "ready at next batch";
  return worker.busy === null ? "–" : percent(worker.busy);
}

function crashOf(crash) {
  if (crash === null) return make("span", "muted", "–");
  const what = make("span", "kind", crash.how);
  if (!crash.last_lines) return make("span", "", what, ` at ${clock(crash.at_s)}`);
  return make("details", "", make("summary", "", what, ` at ${clock(crash.at_s)}`), make("pre", "", crash.last_lines));
}

function build() {
  const slot = make("th");
  slot.scope = "row";
  const cells = ["n", "", "n", "n", "n", "n", "error"].map((name) => make("td", name));
  return make("tr", "", slot, ...cells);
}

function update(row, worker) {
  const texts = [
    worker.slot,
    worker.pid ? String(worker.pid) : "none",
    worker.host || "–",
    busyOf(worker),
    count(worker.inflight),
    worker.rss_bytes ? bytes(worker.rss_bytes) : "–",
    restartsOf(worker),
  ];
  texts.forEach((text, i) => {
    if (row.children[i].textContent !== text) row.children[i].textContent = text;
  });
  const known = JSON.stringify(worker.last_crash);
  if (row.dataset.crash !== known) {
    row.dataset.crash = known;
    row.lastElementChild.replaceChildren(crashOf(worker.last_crash));
  }
}

export function showWorkers(workers, left) {
  $("workers").hidden = !workers.length;
  const crashes = workers.reduce((sum, worker) => sum + (worker.restarts.crash || 0), 0);
  const parts = [count(workers.length + left), crashes ? `${count(crashes)} ${crashes === 1 ? "crash" : "crashes"}` : null];
  if (left) parts.push(`${count(left)} not shown`);
  put("workers-note", parts.filter((part) => part !== null).join(" · "));
  fill($("worker-rows"), workers, (worker) => `${worker.executor} ${worker.slot} ${worker.pid}`, build, update);
}

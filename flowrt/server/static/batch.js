// One batch in detail.

import { Chart } from "./charts.js";
import { $, CAUSES, FAILING, config, copyButton, failingShare, failures, fill, isRunning, make, put, trace } from "./dom.js";
import { clock, count, number, percent, progress, seconds, short } from "./format.js";

const CONFIRM_MS = 5000;

const charts = {
  bound: new Chart($("bound-chart"), {
    title: "What limits the batch, as shares of the time",
    series: Object.entries(CAUSES).map(([cause, name]) => ({ name, color: `--c-${cause}` })),
    format: percent,
    stacked: true,
  }),
  rate: new Chart($("rate-chart"), {
    title: "Items per second",
    series: [{ name: "ended", color: "--s-1" }, { name: "failed", color: "--s-3" }],
    format: number,
  }),
  latency: new Chart($("latency-chart"), {
    title: "Latency of items",
    series: [{ name: "p50", color: "--s-1" }, { name: "p95", color: "--s-2" }, { name: "p99", color: "--s-3" }],
    format: seconds,
    tick: (value) => (value >= 60 && value < 600 ? `${value} s` : seconds(value)), // "1 min 40 s" is too wide
    log: true,
  }),
  slots: new Chart($("slots-chart"), {
    title: "Slots",
    series: [
      { name: "in flight", color: "--s-1" },
      { name: "limit", color: "--muted", dashed: true },
      { name: "queued", color: "--s-2" },
    ],
    format: (value) => count(Math.round(value)),
  }),
};

// The window that a figure covers, in words.
function windowOf(batch, window_s = batch.window_s) {
  if (window_s !== null) return `last ${short(window_s)}`;
  return batch.partial ? "since the first failure" : isRunning(batch) ? "so far" : "whole batch";
}

function badge(batch) {
  const failed = failures(batch);
  if (isRunning(batch)) {
    const share = failingShare(batch);
    const state = batch.paused_s === null ? "running" : "paused";
    if (!batch.failing.failed) return [state, batch.paused_s === null ? "running" : "warn"];
    return [`${state}, ${percent(share)} failing`, share >= FAILING ? "failed" : "warn"];
  }
  const end = batch.status === "cancelled" ? "stopped" : "finished";
  if (failed) return [`${end}, ${percent(failed / batch.completed)} failed`, "failed"];
  const cancelled = batch.counts.cancelled;
  return [cancelled ? `${end}, ${count(cancelled)} cancelled` : end, cancelled ? "warn" : "ok"];
}

function figure(id, window, ...value) {
  put(`${id}-window`, window);
  $(id).replaceChildren(...value);
}

function showHead(batch) {
  const over = !isRunning(batch);
  const failed = failures(batch);
  const whole = batch.expected === null ? null : Math.max(batch.expected, batch.completed);
  const [status, tone] = badge(batch);
  put("name", batch.name);
  put("status", status);
  $("status").dataset.status = tone;
  $("status").title = over ? "" : `share of the items that ended: ${windowOf({ ...batch, partial: false })}`;
  put("node", batch.node === batch.name ? "" : `node ${batch.node}`);
  const paused = over || batch.paused_s === null ? "" : `, paused for ${seconds(batch.paused_s)}`;
  put("elapsed", `${over ? "took" : "for"} ${seconds(batch.elapsed_s)}${paused}`);
  const bar = $("bar");
  const done = whole ? batch.completed / whole : over ? 1 : 0;
  const bad = batch.completed ? failed / batch.completed : 0;
  bar.children[0].style.width = `${done * bad * 100}%`;
  bar.children[1].style.width = `${done * (1 - bad) * 100}%`;
  bar.setAttribute("aria-valuemax", String(whole === null ? batch.completed : whole));
  bar.setAttribute("aria-valuenow", String(batch.completed));
  const of = whole === null ? `${count(batch.completed)} items` : `${count(batch.completed)} of ${count(whole)} items`;
  bar.setAttribute("aria-valuetext", of);
  put("done", whole === null ? of : `${of}, ${progress(done)}`);
  put("eta", !over && batch.eta_s !== null ? `· about ${short(Math.max(1, Math.round(batch.eta_s)))} left` : "");
  const share = failed ? make("span", "of", ` ${percent(failed / batch.completed)}`) : "";
  figure("failed", over ? "whole batch" : "so far", count(failed), share);
  $("failed").className = failed ? "bad" : "";
  figure("rate", windowOf({ ...batch, partial: false }), `${number(batch.rate)}/s`);
  const latencyWindow = windowOf(batch, batch.latency_window_s);
  for (const name of ["p50", "p95", "p99"]) figure(name, latencyWindow, seconds(batch.latency[name]));
  figure("inflight", over ? "at the end" : "now", count(batch.inflight), make("span", "of", ` of ${count(batch.limit)}`));
  figure("queued", over ? "at the end" : "now", count(batch.queued));
}

function showControls(batch) {
  // pause and resume are one button, so that the focus stays on it
  const actions = isRunning(batch) ? config.controls.filter((action) => action !== "resume") : [];
  fill(
    $("controls"),
    actions,
    (action) => `${batch.id} ${action}`,
    (action) => {
      const button = make("button", "quiet", action);
      button.type = "button";
      button.addEventListener("click", () => press(button, batch));
      return button;
    },
    (button, action) => {
      button.dataset.action = action === "pause" && batch.paused_s !== null ? "resume" : action;
      if (!button.dataset.confirm && button.textContent !== button.dataset.action) button.textContent = button.dataset.action;
    },
  );
}

// Cancelling loses work, so it needs a second press.
async function press(button, batch) {
  const action = button.dataset.action;
  if (action === "cancel" && !button.dataset.confirm) {
    button.dataset.confirm = "1";
    button.textContent = `cancel ${batch.name}?`;
    setTimeout(() => {
      delete button.dataset.confirm;
      button.textContent = action;
    }, CONFIRM_MS);
    return;
  }
  if (button.dataset.busy) return;
  button.dataset.busy = "1"; // not `disabled`, which would take the focus from it
  let said = "";
  try {
    const answer = await fetch(`live/batches/${batch.id}/${action}`, { method: "POST" });
    said = answer.ok ? `${action} requested` : `${action} refused: ${(await answer.text()).trim()}`;
  } catch {
    said = `${action} failed: no connection`;
  }
  delete button.dataset.busy;
  put("control-note", said);
  put("announce", `${batch.name}: ${said}`);
}

function showBound(batch) {
  const circuit = batch.circuit && batch.circuit !== "closed" ? ` The circuit breaker is ${batch.circuit.replace("_", " ")}.` : "";
  const sentence = batch.explained ? `${batch.explained}.` : "nothing yet.";
  put("bound-text", `${isRunning(batch) ? "So far" : "Whole batch"}: ${sentence}${circuit}`);
}

function showCharts(batch, rows) {
  const order = Object.keys(batch.bound_s); // of the causes in a row
  const times = rows.map((row) => row[0]);
  const span = times.length ? times[times.length - 1] : 0;
  const step = Math.max(1.9, span / 60);
  const rates = [[], []];
  const bounds = Object.keys(CAUSES).map(() => []);
  let back = 0;
  rows.forEach((row, i) => {
    while (back + 1 < i && row[0] - rows[back + 1][0] >= step) back += 1;
    const before = i ? rows[back] : null;
    const lasted = before ? row[0] - before[0] : row[0];
    [1, 2].forEach((column, k) => {
      rates[k].push(lasted > 0 ? (row[column] - (before ? before[column] : 0)) / lasted : null);
    });
    const spent = row[9].map((value, k) => Math.max(0, value - (before ? before[9][k] || 0 : 0)));
    const all = spent.reduce((sum, each) => sum + each, 0);
    Object.keys(CAUSES).forEach((cause, k) => bounds[k].push(all ? (spent[order.indexOf(cause)] || 0) / all : 0));
  });
  for (let i = rows.length - 2; i >= 0; i -= 1) {
    // nothing was charged in this interval: show the next one
    if (bounds.every((column) => column[i] === 0)) bounds.forEach((column) => (column[i] = column[i + 1]));
  }
  // extend to the start, which lies a little before the first sample
  const fromStart = times.length > 0 && !batch.partial;
  const whole = (column) => (fromStart ? [column[0], ...column] : column);
  if (fromStart) times.unshift(0);
  const column = (at) => whole(rows.map((row) => row[at]));
  const figures = windowOf({ ...batch, partial: false });
  const latencies = ["p50", "p95", "p99"].map((name) => batch.latency[name]);
  const rate = [batch.rate, batch.rate * failingShare(batch)];
  const slots = [batch.inflight, batch.limit, batch.queued];
  const shares = Object.keys(CAUSES).map((cause) => batch.bound_window[cause] || 0);
  charts.bound.show(times, bounds.map(whole), shares, figures);
  charts.rate.show(times, rates.map(whole), rate, figures);
  charts.latency.show(times, [6, 7, 8].map(column), latencies, windowOf(batch, batch.latency_window_s));
  charts.slots.show(times, [3, 4, 5].map(column), slots, isRunning(batch) ? "now" : "at the end");
}

function showFailures(batch) {
  const failed = failures(batch);
  $("failures").hidden = !failed;
  put("failures-note", `${count(failed)} of ${count(batch.completed)} items, ${isRunning(batch) ? "so far" : "whole batch"}`);
  put("ungrouped", batch.ungrouped ? `${count(batch.ungrouped)} more failed too fast to be grouped by cause.` : "");
  fill(
    $("causes"),
    batch.causes,
    (cause) => `${batch.id} ${cause.index} ${cause.type}`,
    (cause) =>
      make(
        "li",
        "",
        make("b", "times"),
        make("div", "cause", make("span", "kind", cause.type), make("span", "text", cause.text)),
        make(
          "div",
          "example",
          make("span", "", `e.g. item ${count(cause.index)}: `),
          make("span", "text", cause.error),
          make("span", "tail", trace(cause.trace_id), copyButton(`the error of item ${cause.index}`, `item ${cause.index}: ${cause.type}: ${cause.error}`, "copy error")),
        ),
        make("span", "last"),
      ),
    (row, cause) => {
      row.children[0].textContent = `${count(cause.count)} ×`;
      row.children[3].textContent = `last at ${clock(cause.last_s)}`;
    },
  );
  fill(
    $("failed-items"),
    [...batch.failures].reverse(),
    (item) => `${batch.id} ${item.index}-${item.at_s}`,
    (item) =>
      make(
        "tr",
        "",
        make("td", "n", count(item.index)),
        make("td", "error", make("span", "kind", item.error_type), make("span", "text", item.error)),
        make("td", "n", count(item.attempts)),
        make("td", "n", seconds(item.duration_s)),
        make("td", "n", clock(item.at_s)),
        make("td", "of-trace", trace(item.trace_id)),
      ),
  );
}

function shortPath(file) {
  return file.split(/[\\/]/).slice(-2).join("/");
}

function place(each) {
  const code = make("code", "", `${each.function} at ${shortPath(each.file)}:${each.line}`);
  code.title = `${each.file}:${each.line}`;
  return code;
}

// Where an item waits: the innermost line of user code, with the whole chain of awaits behind it.
function where(item) {
  const chain = item.places;
  if (!chain.length) return [item.state === "running" ? "in a worker or at its start" : item.state];
  const own = chain.filter((each) => !/[\\/](lib[\\/]python[\d.]+|site-packages)[\\/]/.test(each.file));
  const shown = (own.length ? own : chain).slice(-1)[0];
  if (chain.length === 1) return [place(shown)];
  const all = make("ol", "", ...chain.map((each) => make("li", "", place(each))));
  return [make("details", "", make("summary", "", place(shown)), all)];
}

function showItems(batch) {
  const traced = [...batch.failures, ...batch.slowest].some((item) => item.trace_id);
  $("shown").classList.toggle("untraced", !traced);
  $("no-running").hidden = batch.running.length > 0;
  $("running").hidden = !batch.running.length;
  const more = batch.inflight - batch.running.length;
  put("running-note", more > 0 && batch.running.length ? `the ${batch.running.length} oldest of ${count(batch.inflight)}` : "");
  fill(
    $("running-items"),
    batch.running,
    (item) => item.index,
    (item) => make("tr", "", make("td", "n", count(item.index)), make("td", "n"), make("td", "n"), make("td", "where")),
    (row, item) => {
      row.children[1].textContent = seconds(item.age_s);
      row.children[2].textContent = count(item.attempt);
      const known = JSON.stringify([item.state, item.places]);
      if (row.dataset.where !== known && !row.contains(document.activeElement)) {
        row.dataset.where = known;
        const opened = row.querySelector("details[open]") !== null;
        row.children[3].replaceChildren(...where(item));
        if (opened && row.querySelector("details")) row.querySelector("details").open = true;
      }
    },
  );
  $("no-slow").hidden = batch.slowest.length > 0;
  $("slow").hidden = !batch.slowest.length;
  fill(
    $("slow-items"),
    batch.slowest,
    (item) => `${batch.id} ${item.index}`,
    (item) =>
      make(
        "tr",
        "",
        make("td", "n", count(item.index)),
        make("td", "n", seconds(item.duration_s)),
        make("td", "", item.status.replace("_", " ")),
        make("td", "n", count(item.attempts)),
        make("td", "of-trace", trace(item.trace_id)),
      ),
  );
}

function culprit(stall, batch) {
  if (stall.garbage_collection) return "Python's garbage collector";
  if (stall.node === null) return stall.stack ? "code outside of items" : "unknown cause (it ended before it could be sampled)";
  return `node ${stall.node}${stall.batch === batch.name ? "" : ` of ${stall.batch}`}`;
}

function showStalls(batch) {
  $("stalls").hidden = !batch.stall_groups.length;
  fill(
    $("stall-list"),
    batch.stall_groups,
    (stall) => `${batch.id} ${stall.garbage_collection} ${stall.batch} ${stall.node} ${stall.stack.split("\n").pop()}`,
    () => make("li", "", make("details", "", make("summary", "", make("b"), make("span")), make("pre"))),
    (row, stall) => {
      const [summary, stack] = row.firstElementChild.children;
      const often = stall.count > 1 ? `${count(stall.count)} × up to ${seconds(stall.longest_s)}` : seconds(stall.longest_s);
      const item = stall.index !== null && stall.count === 1 ? `, item ${count(stall.index)}` : "";
      const total = stall.count > 1 ? `, ${seconds(stall.total_s)} in total` : "";
      const delays = stall.count > 1 ? `items ${count(stall.delayed)} times` : `${count(stall.delayed)} items`;
      const delayed = stall.delayed ? `; delayed ${delays}` : "";
      summary.children[0].textContent = often;
      summary.children[1].textContent = ` ${culprit(stall, batch)}${item}${total}, last at ${clock(stall.last_s)}${delayed}`;
      if (stack.textContent !== stall.stack) stack.textContent = stall.stack || "no stack";
    },
  );
}

export function showBatch(batch, rows) {
  showHead(batch);
  showControls(batch);
  showFailures(batch);
  showBound(batch);
  showCharts(batch, rows);
  showStalls(batch);
  showItems(batch);
}

// The live page. State arrives as server-sent events and enters the page as text only, never as markup.

import { Chart } from "./charts.js";
import { bytes, clock, count, number, percent, progress, seconds, short } from "./format.js";

const MOST_POINTS = 480;
const LEAST_S = 0.4;
const MOST_BATCHES = 20;
const CAUSES = {
  slots: "Slots",
  rate_limit: "Rate limit",
  backoff: "Backoff",
  input: "Input",
  consumer: "Consumer",
  loop_blocked: "Loop blocked",
  tail: "Tail",
  service: "Service",
};
const ORDER = ["input", "slots", "rate_limit", "backoff", "loop_blocked", "consumer", "tail", "service"]; // as sent

const $ = (id) => document.getElementById(id);
const batches = new Map(); // by id, in the order in which they started
const pasts = new Map(); // by id: rows [s, completed, failed, in flight, limit, queued, p50, p95, p99, bound]
let chosen = null;
let latestProcess = null;

// -- the page's parts -----------------------------------------------------------------------------------------------

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

function put(id, text) {
  const at = $(id);
  if (at.textContent !== text) at.textContent = text;
}

function make(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Update rows by key. Unchanged rows stay in place, so a selection, the focus or an open detail survives an update.
function fill(host, rows, keyOf, build, update = () => {}) {
  const old = new Map([...host.children].map((child) => [child.dataset.key, child]));
  rows.forEach((row, place) => {
    const key = String(keyOf(row));
    let child = old.get(key);
    old.delete(key);
    if (!child) {
      child = build(row);
      child.dataset.key = key;
    }
    update(child, row);
    if (host.children[place] !== child) host.insertBefore(child, host.children[place] || null);
  });
  old.forEach((child) => child.remove());
}

function copyButton(what, text) {
  const button = make("button", "copy", "copy");
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${what}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      button.textContent = "not allowed";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  return button;
}

function trace(id) {
  if (!id) return make("td", "trace muted", "–");
  const short = make("code", "", id.slice(0, 8));
  short.title = id;
  return make("td", "trace", short, copyButton(`trace id ${id}`, id));
}

// -- one batch ------------------------------------------------------------------------------------------------------

function showHead(batch) {
  const over = batch.status !== "running";
  const failed = batch.counts.failed + batch.counts.timed_out;
  const whole = batch.expected === null ? null : Math.max(batch.expected, batch.completed);
  put("name", batch.name);
  put("status", { ok: "finished", failed: "finished with failures", cancelled: "stopped" }[batch.status] || "running");
  $("status").dataset.status = batch.status;
  put("node", batch.node === batch.name ? "" : `node ${batch.node}`);
  put("elapsed", `${over ? "took" : "for"} ${seconds(batch.elapsed_s)}`);
  const bar = $("bar");
  const done = whole ? batch.completed / whole : over ? 1 : 0;
  const bad = batch.completed ? failed / batch.completed : 0;
  bar.children[0].style.width = `${done * (1 - bad) * 100}%`;
  bar.children[1].style.width = `${done * bad * 100}%`;
  bar.setAttribute("aria-valuemax", String(whole === null ? batch.completed : whole));
  bar.setAttribute("aria-valuenow", String(batch.completed));
  const of = whole === null ? `${count(batch.completed)} items` : `${count(batch.completed)} of ${count(whole)} items`;
  bar.setAttribute("aria-valuetext", of);
  put("done", whole === null ? of : `${of}, ${progress(done)}`);
  put("eta", !over && batch.eta_s !== null ? `· about ${short(Math.max(1, Math.round(batch.eta_s)))} left` : "");
  put("rate", `${number(over ? batch.completed / Math.max(batch.elapsed_s, 1e-9) : batch.rate)}/s`);
  for (const name of ["p50", "p95", "p99"]) put(name, seconds(batch.latency[name]));
  $("inflight").replaceChildren(count(batch.inflight), make("span", "of", ` of ${count(batch.limit)}`));
  put("queued", count(batch.queued));
  const share = batch.completed ? make("span", "of", failed ? ` ${percent(failed / batch.completed)}` : "") : null;
  $("failed").replaceChildren(...[count(failed), share].filter((part) => part !== null));
  $("failed").className = failed ? "bad" : "";
}

function showBound(batch) {
  const circuit = batch.circuit && batch.circuit !== "closed" ? ` The circuit breaker is ${batch.circuit.replace("_", " ")}.` : "";
  const sentence = batch.explained ? `${batch.explained[0].toUpperCase()}${batch.explained.slice(1)}.` : "Nothing yet.";
  put("bound-text", `${sentence}${circuit}`);
}

function showCharts(batch) {
  const rows = pasts.get(batch.id) || [];
  const times = rows.map((row) => row[0]);
  const span = times.length ? times[times.length - 1] : 0;
  const window = Math.max(1.9, span / 60);
  const rates = [[], []];
  const bounds = Object.keys(CAUSES).map(() => []);
  let back = 0;
  rows.forEach((row, i) => {
    while (back + 1 < i && row[0] - rows[back + 1][0] >= window) back += 1;
    const before = i ? rows[back] : null;
    const lasted = before ? row[0] - before[0] : row[0];
    [1, 2].forEach((column, k) => {
      rates[k].push(lasted > 0 ? (row[column] - (before ? before[column] : 0)) / lasted : null);
    });
    const held = row[9].map((value, k) => Math.max(0, value - (before ? before[9][k] || 0 : 0)));
    const all = held.reduce((sum, each) => sum + each, 0);
    Object.keys(CAUSES).forEach((cause, k) => bounds[k].push(all ? (held[ORDER.indexOf(cause)] || 0) / all : 0));
  });
  for (let i = rows.length - 2; i >= 0; i -= 1) {
    // nothing was charged in this interval: show the next one
    if (bounds.every((column) => column[i] === 0)) bounds.forEach((column) => (column[i] = column[i + 1]));
  }
  // extend to the start, which lies a little before the first sample
  const whole = (column) => (column.length ? [column[0], ...column] : column);
  if (times.length) times.unshift(0);
  charts.bound.show(times, bounds.map(whole));
  charts.rate.show(times, rates.map(whole));
  charts.latency.show(times, [6, 7, 8].map((column) => whole(rows.map((row) => row[column]))));
  charts.slots.show(times, [3, 4, 5].map((column) => whole(rows.map((row) => row[column]))));
}

function showFailures(batch) {
  const kinds = Object.entries(batch.errors);
  $("no-failures").hidden = kinds.length > 0 || batch.failures.length > 0;
  $("failures").hidden = !$("no-failures").hidden;
  const most = Math.max(1, ...kinds.map(([, times]) => times));
  fill(
    $("errors"),
    kinds,
    ([kind]) => kind,
    ([kind]) => make("li", "", make("code", "", kind), make("span", "weight"), make("b", "n", "")),
    (row, [, times]) => {
      row.children[1].style.width = `${(times / most) * 100}%`;
      row.children[2].textContent = count(times);
    },
  );
  fill(
    $("failed-items"),
    [...batch.failures].reverse(),
    (item) => `${item.index}-${item.at_s}`,
    (item) =>
      make(
        "tr",
        "",
        make("td", "n", count(item.index)),
        make(
          "td",
          "error",
          make("span", "kind", item.error_type),
          copyButton(`the error of item ${item.index}`, `item ${item.index}: ${item.error_type}: ${item.error}`),
          make("span", "text", item.error),
        ),
        make("td", "n", count(item.attempts)),
        make("td", "n", seconds(item.duration_s)),
        make("td", "n", clock(item.at_s)),
        trace(item.trace_id),
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
    (item) => item.index,
    (item) =>
      make(
        "tr",
        "",
        make("td", "n", count(item.index)),
        make("td", "n", seconds(item.duration_s)),
        make("td", "", item.status.replace("_", " ")),
        make("td", "n", count(item.attempts)),
        trace(item.trace_id),
      ),
  );
}

function showStalls(batch) {
  $("stalls").hidden = !batch.stalls.length;
  fill(
    $("stall-list"),
    [...batch.stalls].reverse(),
    (stall) => stall.at_s,
    (stall) => {
      const of = stall.batch === batch.name || stall.batch === null ? "" : ` of ${stall.batch}`;
      const unknown = stall.stack ? "code outside of items" : "an unknown cause (it ended before it could be sampled)";
      const other = stall.garbage_collection ? "Python's garbage collector" : unknown;
      const who = stall.index === null ? other : `item ${count(stall.index)}${of}`;
      const delayed = stall.delayed ? `; it delayed ${count(stall.delayed)} items` : "";
      const text = ` by ${who}, at ${clock(stall.at_s)}${delayed}`;
      const summary = make("summary", "", make("b", "", seconds(stall.duration_s)), text);
      const stack = stall.stack || "no stack";
      return make("li", "", make("details", "", summary, make("pre", "", stack)));
    },
  );
}

// -- all of it ------------------------------------------------------------------------------------------------------

function showProcess(process) {
  const parts = [
    `flowrt ${process.version}`,
    `Python ${process.python}`,
    process.loop === "none" ? null : process.loop,
    `pid ${process.pid}`,
    process.cpu === null ? null : `CPU ${percent(process.cpu)}`,
    process.rss_bytes === null ? null : bytes(process.rss_bytes),
    process.lag_s === null ? null : `loop lag ≤ ${seconds(process.lag_s)}`,
    process.dropped ? `${count(process.dropped)} telemetry dropped` : null,
  ];
  put("process", parts.filter((part) => part !== null).join(" · "));
}

function showChoice(list) {
  $("batches").hidden = list.length < 2;
  fill(
    $("batches").firstElementChild,
    [...list].reverse(),
    (batch) => batch.id,
    (batch) => {
      const button = make("button", "", make("span", "", batch.name), make("span", "what"));
      button.type = "button";
      button.addEventListener("click", () => {
        chosen = batch.id;
        show();
      });
      return make("li", "", button);
    },
    (row, batch) => {
      const button = row.firstElementChild;
      const done = batch.expected ? progress(batch.completed / Math.max(batch.expected, batch.completed)) : count(batch.completed);
      const failed = batch.counts.failed + batch.counts.timed_out;
      const end = { ok: "all ok", failed: `${count(failed)} failed`, cancelled: "stopped" }[batch.status];
      const what = batch.status === "running" ? `running, ${done}` : `${clock(batch.started_s)}, ${end}`;
      if (button.lastElementChild.textContent !== what) button.lastElementChild.textContent = what;
      button.setAttribute("aria-current", String(batch.id === (current() || {}).id));
    },
  );
}

function current() {
  if (chosen !== null && batches.has(chosen)) return batches.get(chosen);
  const list = [...batches.values()];
  return list.filter((batch) => batch.status === "running").pop() || list.pop() || null;
}

function show() {
  if (latestProcess !== null) showProcess(latestProcess);
  const list = [...batches.values()];
  showChoice(list);
  const batch = current();
  $("idle").hidden = batch !== null;
  $("shown").hidden = batch === null;
  if (batch === null) {
    document.title = "flowrt";
    return;
  }
  document.title = batch.expected ? `${progress(batch.completed / batch.expected)} ${batch.name} · flowrt` : `${batch.name} · flowrt`;
  for (const part of [showHead, showBound, showCharts, showFailures, showStalls, showItems]) part(batch);
}

// -- what arrives ---------------------------------------------------------------------------------------------------

function remember(batch) {
  const rows = pasts.get(batch.id) || [];
  const last = rows[rows.length - 1];
  const near = rows.length > 1 && last[0] - rows[rows.length - 2][0] < LEAST_S;
  if (batch.point && near) rows[rows.length - 1] = batch.point;
  else if (batch.point && (!last || batch.point[0] > last[0])) rows.push(batch.point);
  pasts.set(batch.id, rows.length > MOST_POINTS ? rows.filter((_, i) => i % 2 === 0 || i === rows.length - 1) : rows);
}

function announce(batch, before) {
  if (!before && batch.status === "running") put("announce", `${batch.name} has started`);
  if (before && before.status === "running" && batch.status !== "running") {
    const failed = batch.counts.failed + batch.counts.timed_out;
    put("announce", `${batch.name} has ended: ${count(batch.completed)} items, ${count(failed)} failed`);
  }
}

function take(state, whole) {
  latestProcess = state.process;
  if (whole) {
    batches.clear();
    pasts.clear();
  }
  const news = [...state.batches].sort((one, other) => one.started_s - other.started_s);
  for (const batch of news) {
    if (batch.history) {
      pasts.set(batch.id, batch.history);
      delete batch.history;
    } else {
      remember(batch);
      announce(batch, batches.get(batch.id));
    }
    batches.set(batch.id, batch);
  }
  while (batches.size > MOST_BATCHES) {
    const oldest = batches.keys().next().value;
    batches.delete(oldest);
    pasts.delete(oldest);
  }
  show();
}

function linked(state, text) {
  if ($("link").dataset.state !== state) $("link").dataset.state = state;
  put("link-text", text);
}

function connect() {
  const source = new EventSource("live/events");
  let heard = Date.now();
  const receive = (whole) => (event) => {
    heard = Date.now();
    linked("live", "live");
    take(JSON.parse(event.data), whole);
  };
  source.addEventListener("snapshot", receive(true));
  source.addEventListener("state", receive(false));
  source.addEventListener("error", () => {
    const since = latestProcess === null ? "" : `; as of ${clock(latestProcess.now_s)}`;
    linked("lost", `no connection${since}`);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 3000); // the server answered with an error status
  });
  const timer = setInterval(() => {
    if (source.readyState === EventSource.CLOSED) clearInterval(timer);
    else if (Date.now() - heard > 15000 && $("link").dataset.state === "live") linked("lost", "nothing heard for a while");
  }, 5000);
}

const THEMES = ["system", "light", "dark"];
function wear(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  put("theme", `Theme: ${theme}`);
}
const stored = localStorage.getItem("flowrt-theme");
wear(THEMES.includes(stored) ? stored : "system");
$("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "system") + 1) % THEMES.length];
  localStorage.setItem("flowrt-theme", next);
  wear(next);
});

put("top", `flowrt top ${new URL(".", location.href).href}`);
connect();

// The live page: state arrives as server-sent events.

import { showBatch } from "./batch.js";
import { $, FAILING, config, copyButton, failingShare, failures, isRunning, put } from "./dom.js";
import { bytes, clock, count, percent, progress, seconds } from "./format.js";
import { mostTroubled, showOverview } from "./overview.js";
import { showWorkers } from "./workers.js";

const MAX_POINTS = 480;
const MIN_STEP_S = 0.4;
const MAX_BATCHES = 40;

const batches = new Map(); // by id, in the order in which they started
const histories = new Map(); // by id: rows [s, completed, failed, in flight, limit, queued, p50, p95, p99, causes]
let overview = { groups: [], groups_left: 0, active: 0 };
let chosen = null;
let latestProcess = null;

function showProcess(process) {
  const parts = [
    `flowrt ${process.version}`,
    `Python ${process.python}`,
    process.loop === "none" ? null : process.loop,
    `pid ${process.pid}`,
    process.cpu === null ? null : `CPU ${percent(process.cpu)}`,
    process.rss_bytes === null ? null : bytes(process.rss_bytes),
    process.lag_s === null ? null : `loop lag ≤ ${seconds(process.lag_s)}`,
    process.stalls ? `${count(process.stalls)} loop ${process.stalls === 1 ? "stall" : "stalls"}` : null,
    process.dropped ? `${count(process.dropped)} telemetry dropped` : null,
  ];
  put("process", parts.filter((part) => part !== null).join(" · "));
}

// The batch to show: the chosen one, else the most troubled.
function current() {
  if (chosen !== null && batches.has(chosen)) return batches.get(chosen);
  return mostTroubled([...batches.values()], overview.groups);
}

function choose(id) {
  if (id !== null) chosen = id;
  show();
}

// The tab shows trouble in its title and icon, also while another tab is open.
function showTab(batch) {
  const failing = [...batches.values()].filter((each) => isRunning(each) && failingShare(each) >= FAILING);
  const icon = failing.length ? "live/icon-failing.svg" : "live/icon.svg";
  if ($("icon").getAttribute("href") !== icon) $("icon").setAttribute("href", icon);
  if (failing.length > 1) document.title = `${count(failing.length)} batches failing · flowrt`;
  else if (failing.length) document.title = `${percent(failingShare(failing[0]))} failing · ${failing[0].name} · flowrt`;
  else if (batch === null) document.title = "flowrt";
  else if (isRunning(batch) && batch.paused_s !== null) document.title = `paused · ${batch.name} · flowrt`;
  else if (batch.expected) document.title = `${progress(batch.completed / batch.expected)} ${batch.name} · flowrt`;
  else document.title = `${batch.name} · flowrt`;
}

function show() {
  if (latestProcess !== null) showProcess(latestProcess);
  const batch = current();
  showOverview([...batches.values()], overview, batch, choose);
  $("idle").hidden = batch !== null;
  $("shown").hidden = batch === null;
  if (batch !== null) showBatch(batch, histories.get(batch.id) || []);
  showTab(batch);
}

// -- received state ---------------------------------------------------------------------------------------------------

function remember(batch) {
  const rows = histories.get(batch.id) || [];
  const last = rows[rows.length - 1];
  const near = rows.length > 1 && last[0] - rows[rows.length - 2][0] < MIN_STEP_S;
  if (batch.point && near) rows[rows.length - 1] = batch.point;
  else if (batch.point && (!last || batch.point[0] > last[0])) rows.push(batch.point);
  histories.set(batch.id, rows.length > MAX_POINTS ? rows.filter((_, i) => i % 2 === 0 || i === rows.length - 1) : rows);
}

function announce(batch, before) {
  if (!before && isRunning(batch)) put("announce", `${batch.name} has started`);
  if (before && isRunning(before) && !isRunning(batch)) {
    put("announce", `${batch.name} has ended: ${count(batch.completed)} items, ${count(failures(batch))} failed`);
  }
}

function take(state, whole) {
  latestProcess = state.process;
  overview = state;
  showWorkers(state.workers, state.workers_left);
  if (whole) {
    batches.clear();
    histories.clear();
  }
  const news = [...state.batches].sort((one, other) => one.started_s - other.started_s);
  const sent = new Set(news.map((batch) => batch.id));
  for (const batch of [...batches.values()]) {
    // a failing batch has taken its place on the page
    if (isRunning(batch) && !sent.has(batch.id)) batches.delete(batch.id);
  }
  for (const batch of news) {
    if (batch.history) {
      histories.set(batch.id, batch.history);
      delete batch.history;
    } else {
      remember(batch);
      if (state.batches.length <= MAX_BATCHES / 2) announce(batch, batches.get(batch.id));
    }
    batches.set(batch.id, batch);
  }
  const ended = [...batches.values()].filter((batch) => !isRunning(batch) && batch.id !== chosen);
  for (const batch of ended.slice(0, Math.max(0, batches.size - MAX_BATCHES))) batches.delete(batch.id);
  for (const id of histories.keys()) if (!batches.has(id)) histories.delete(id);
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
    else if (Date.now() - heard > 15000 && $("link").dataset.state === "live") linked("lost", "no data for 15 s");
  }, 5000);
}

async function start() {
  try {
    Object.assign(config, await (await fetch("live/config")).json());
  } catch {
    // without it there are no links to traces and no controls
  }
  connect();
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

$("example-host").append(copyButton("the example", $("example").textContent));
put("top", `flowrt top ${new URL(".", location.href).href}`);
start();

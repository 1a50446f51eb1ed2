// The table of all batches, the most troubled first. Many batches of one name are one row.

import { $, CAUSES, FAILING, failingShare, failures, fill, isRunning, make, put } from "./dom.js";
import { clock, count, number, percent, progress, seconds, short } from "./format.js";

const MOST_SINGLE = 3; // more batches of a name are shown as a group
const OTHER = "(other names)"; // the server's row of all names beyond its limit
const opened = new Set(); // names of the groups whose batches are listed

// Coarse classes, so that rows do not change places with every frame.
function trouble(batch) {
  if (isRunning(batch)) return failingShare(batch) >= FAILING ? 0 : failures(batch) ? 1 : 2;
  return failures(batch) ? 3 : 4;
}

function byTrouble(one, other) {
  return trouble(one) - trouble(other) || other.started_s - one.started_s;
}

// Of a group, the share over all its batches counts: one of three items is a third of a small batch.
function groupTrouble(group) {
  if (!group.active) return group.failed ? 3 : 4;
  return group.failing >= FAILING ? 0 : group.failing > 0 ? 1 : 2;
}

function later(one, other) {
  return one.started === other.started ? 0 : one.started > other.started ? 1 : -1;
}

// Blocks of rows, the most troubled first: a single batch, or a group followed by its batches if it is open.
function blocksOf(batches, groups) {
  const members = new Map();
  for (const batch of batches) members.set(batch.name, [...(members.get(batch.name) || []), batch]);
  const blocks = [];
  for (const group of groups) {
    const own = (members.get(group.name) || []).sort(byTrouble);
    const total = group.active + Object.values(group.ended).reduce((sum, each) => sum + each, 0);
    if (total <= MOST_SINGLE) continue;
    members.delete(group.name);
    const rows = [{ group, own }];
    if (opened.has(group.name)) rows.push(...own.map((batch) => ({ batch, inside: true })));
    const trouble = groupTrouble(group);
    const failed = trouble < 2 && own.find((batch) => failures(batch) > 0); // of a failing group, a batch that shows why
    blocks.push({ trouble, started: -Infinity, rows, worst: failed || own[0] || null });
  }
  for (const batch of [...members.values()].flat()) {
    blocks.push({ trouble: trouble(batch), started: batch.started_s, rows: [{ batch, inside: false }], worst: batch });
  }
  // Groups keep the server's order, which is by their share of failing items.
  return blocks.sort((one, other) => one.trouble - other.trouble || later(other, one));
}

// The batch to show if none is chosen.
export function mostTroubled(batches, groups) {
  const block = blocksOf(batches, groups).find((each) => each.worst !== null);
  return block ? block.worst : null;
}

function stateOf(batch) {
  const failed = failures(batch);
  if (isRunning(batch)) {
    const share = failingShare(batch);
    if (share >= FAILING) return [`${percent(share)} failing`, "bad"];
    return batch.paused_s === null ? ["running", ""] : ["paused", "warn"];
  }
  if (failed) return [`${count(failed)} failed`, "bad"];
  return batch.status === "cancelled" ? ["stopped", "warn"] : ["finished", ""];
}

function limitOf(batch) {
  const [cause, share] = Object.entries(batch.bound_window).sort((one, other) => other[1] - one[1])[0] || [];
  return cause ? `${CAUSES[cause] || cause} ${percent(share)}` : "–";
}

function cellsOf({ batch, group }) {
  if (group) {
    const { ok, failed, cancelled } = group.ended;
    const bad = group.failing >= FAILING;
    return {
      state: [bad ? `${percent(group.failing)} failing` : `${count(group.active)} active`, bad ? "bad" : ""],
      progress: `${bad ? `${count(group.active)} active, ` : ""}${count(ok + failed + cancelled)} ended`,
      rate: group.batch_rate ? `${number(group.batch_rate)} batches/s` : group.item_rate ? `${number(group.item_rate)}/s` : "–",
      failing: group.failing === null ? (group.failed ? `${count(group.failed)} items` : "–") : percent(group.failing),
      p95: group.p95_s === null ? "–" : `batch ${seconds(group.p95_s)}`,
      limit: "–",
      eta: "–",
    };
  }
  const whole = batch.expected ? Math.max(batch.expected, batch.completed) : null;
  const running = isRunning(batch);
  return {
    state: stateOf(batch),
    progress: whole ? `${progress(batch.completed / whole)} of ${count(whole)}` : `${count(batch.completed)} items`,
    rate: `${number(running ? batch.rate : batch.completed / Math.max(batch.elapsed_s, 1e-9))}/s`,
    failing: batch.failing.failed ? percent(failingShare(batch)) : "–",
    p95: seconds(batch.latency.p95),
    limit: limitOf(batch),
    eta: !running ? `took ${seconds(batch.elapsed_s)}` : batch.eta_s === null ? "–" : short(Math.max(1, Math.round(batch.eta_s))),
  };
}

function build(row, choose) {
  const name = make("button", "choose", row.group ? row.group.name : row.batch.name);
  name.type = "button";
  name.title = name.textContent; // a long name is cut
  if (row.group) {
    name.addEventListener("click", () => {
      if (!opened.delete(row.group.name)) opened.add(row.group.name);
      choose(null);
    });
  } else {
    name.addEventListener("click", () => choose(row.batch.id));
  }
  const head = make("th", "name", name, make("small", "when"));
  head.scope = "row";
  const cells = ["state", "progress", "rate", "failing", "p95", "limit", "eta"].map((cell) => make("td", cell));
  return make("tr", row.inside ? "inside" : "", head, ...cells);
}

function update(line, row, shown) {
  const { state, ...cells } = cellsOf(row);
  const [name, when] = line.firstElementChild.children;
  if (row.group) name.setAttribute("aria-expanded", String(opened.has(row.group.name)));
  else name.setAttribute("aria-current", String(shown !== null && row.batch.id === shown.id));
  const started = row.group ? "" : clock(row.batch.started_s);
  if (when.textContent !== started) when.textContent = started;
  const badge = line.querySelector(".state");
  if (badge.textContent !== state[0]) badge.replaceChildren(make("span", "mark", state[0]));
  badge.firstElementChild.dataset.tone = state[1];
  for (const [cell, text] of Object.entries(cells)) {
    const at = line.querySelector(`.${cell}`);
    if (at.textContent !== text) at.textContent = text;
  }
}

// Show the table if there is more than one batch.
export function showOverview(batches, { groups, groups_left: left, active }, shown, choose) {
  const rows = blocksOf(batches, groups).flatMap((block) => block.rows);
  $("overview").hidden = rows.length < 2 && !rows.some((row) => row.group);
  const names = groups.filter((group) => group.name !== OTHER).length + left;
  const failing = rows.filter((row) => cellsOf(row).state[1] === "bad" && (row.group ? row.group.active : isRunning(row.batch)));
  const parts = [`${count(active)} active`, `${count(names)} ${names === 1 ? "name" : "names"}`];
  const drawn = new Set(rows.map((row) => (row.group || row.batch).name).filter((name) => name !== OTHER));
  const hidden = names - drawn.size;
  if (hidden > 0) parts.push(`${count(hidden)} not shown`);
  if (failing.length) parts.push(`${count(failing.length)} ${hidden > 0 ? "of those shown " : ""}failing`);
  put("overview-note", parts.join(" · "));
  fill(
    $("overview-rows"),
    rows,
    (row) => (row.group ? `group ${row.group.name}` : `${row.inside ? "in " : ""}${row.batch.id}`),
    (row) => build(row, choose),
    (line, row) => update(line, row, shown),
  );
}

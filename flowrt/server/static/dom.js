// Building blocks of the page. Text enters as text nodes only, never as markup.

export const $ = (id) => document.getElementById(id);

// Settings of the server: link template for traces, actions that it allows.
export const config = { trace_url: null, controls: [] };

export function put(id, text) {
  const at = $(id);
  if (at.textContent !== text) at.textContent = text;
}

export function make(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Update rows by key. Unchanged rows stay in place, so a selection, the focus or an open detail survives an update.
export function fill(host, rows, keyOf, build, update = () => {}) {
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
    if (host.children[place] !== child) move(host, child, host.children[place] || null);
  });
  old.forEach((child) => child.remove());
}

// Moving an element takes the focus from it, so give it back.
function move(host, child, before) {
  const focused = child.contains(document.activeElement) ? document.activeElement : null;
  host.insertBefore(child, before);
  if (focused !== null) focused.focus({ preventScroll: true });
}

export function copyButton(what, text, label = "copy") {
  const button = make("button", "copy", label);
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${what}`);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      button.textContent = "not allowed";
    }
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}

// A trace id: a link if the server has a template, with a button that copies it.
export function trace(id) {
  if (!id) return make("span", "muted", "–");
  const short = make("code", "", id.slice(0, 8));
  short.title = id;
  if (!config.trace_url) return make("span", "trace", short, copyButton(`trace id ${id}`, id));
  const link = make("a", "", short);
  link.href = config.trace_url.replaceAll("{trace_id}", encodeURIComponent(id));
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.setAttribute("aria-label", `Trace ${id.slice(0, 8)}, opens in a new tab`);
  return make("span", "trace", link, copyButton(`trace id ${id}`, id));
}

// -- figures of a batch ---------------------------------------------------------------------------------------------

export const CAUSES = {
  slots: "Slots",
  rate_limit: "Rate limit",
  backoff: "Backoff",
  input: "Input",
  paused: "Paused",
  consumer: "Consumer",
  loop_blocked: "Loop blocked",
  tail: "Tail",
  service: "Service",
};

export const FAILING = 0.05; // from this share of failing items on, a running batch is shown in red

export function failures(batch) {
  return batch.counts.failed + batch.counts.timed_out;
}

// Share of failed items within the window of the current figures, or of the whole batch after its end.
export function failingShare(batch) {
  return batch.failing.ended ? batch.failing.failed / batch.failing.ended : 0;
}

export function isRunning(batch) {
  return batch.status === "running";
}

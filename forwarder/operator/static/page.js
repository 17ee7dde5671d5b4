// The page's one script. Everything can be read and done without it; it makes reading live and acting quick.
//
// What templates may use:
//   form[data-confirm="question"]   asks in a dialog, then posts with confirmed=1 (without script the server asks)
//   button[data-copy="text"]        copies, or [data-copy-from="id"] that element's text; hidden until this script runs
//   time[data-at="ms"]              its text is kept as an age
//   [data-stream="url"]             opens the stream; its events fill [data-live="name"] and [data-tail]
//   [data-tail]                     tbody that takes new rows; [data-tail-note] tells what was skipped
//   [data-poll="url"]               is filled from there every second until the answer says that it ended
//   [data-filter]                   the field that "/" focuses;  table.rows: j, k and Enter walk its rows
"use strict";

const ROWS_SHOWN_MAX = 200;
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- acting ---

function askFirst(event) {
  const form = event.target.closest("form[data-confirm]");
  if (!form || form.dataset.isConfirmed) return;
  event.preventDefault();
  const submitter = event.submitter;
  const dialog = byId("confirm");
  byId("confirm-text").textContent = form.dataset.confirm;
  const yes = byId("confirm-yes");
  yes.textContent = (submitter || form.querySelector("button")).textContent.trim() || "Yes";
  yes.className = submitter && submitter.classList.contains("danger") ? "danger" : "primary";
  dialog.returnValue = "no";
  dialog.showModal();
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "yes") return;
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name: "confirmed", value: "1" });
    form.append(field);
    form.dataset.isConfirmed = "1";
    form.requestSubmit(submitter || undefined);
  }, { once: true });
}

async function copy(event) {
  const button = event.target.closest("button[data-copy], button[data-copy-from]");
  if (!button) return;
  const words = button.dataset.copy ?? byId(button.dataset.copyFrom).textContent;
  const told = button.textContent;
  try {
    await navigator.clipboard.writeText(words);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select and copy by hand";
  }
  setTimeout(() => { button.textContent = told; }, 1500);
}

// --- ages ---

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
let clockAheadMs = 0; // of this browser against the daemon, learnt from the stream

function age(atMs) {
  const distance = (Date.now() - clockAheadMs - atMs) / 1000;
  if (Math.abs(distance) < 1) return "now";
  const [unit, name] = UNITS.find(([seconds]) => Math.abs(distance) >= seconds);
  const near = `${Math.floor(Math.abs(distance) / unit)} ${name}`;
  return distance > 0 ? `${near} ago` : `in ${near}`;
}

function refreshAges() {
  if (document.hidden) return;
  for (const time of all("time[data-at]")) {
    const told = age(Number(time.dataset.at));
    if (time.textContent !== told) time.textContent = told;
  }
}

// --- the stream ---

function tellConnection(isLive, told) {
  const badge = byId("connection");
  badge.hidden = false;
  badge.classList.toggle("lost", !isLive);
  if (badge.textContent !== told) badge.textContent = told;
}

// The markup comes from our own templates, escaped there; it never holds a script, and the policy would refuse one.
function markup(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

function fillParts(parts) {
  if (document.querySelector("dialog[open]")) return; // the form that asks must still be there when it is answered
  for (const [name, html] of Object.entries(parts)) {
    for (const place of all(`[data-live="${CSS.escape(name)}"]`)) {
      if (place.dataset.shown === html || place.contains(document.activeElement)) continue;
      place.dataset.shown = html;
      place.replaceChildren(markup(html));
    }
  }
}

// A row that is there already is drawn anew; one that is not is added on top, unless it is old and only changed.
function addRows(tail, rows, isNew = true) {
  for (const { sequence, html } of rows) {
    const row = markup(html).firstElementChild;
    const old = tail.querySelector(`tr[data-sequence="${Number(sequence)}"]`);
    if (old) {
      row.classList.toggle("is-chosen", old.classList.contains("is-chosen"));
      if (old.contains(document.activeElement)) continue; // never pull a row from under somebody's keys
      old.replaceWith(row);
    } else if (isNew) {
      row.classList.add("is-new");
      tail.prepend(row);
    }
  }
  while (tail.rows.length > ROWS_SHOWN_MAX) tail.lastElementChild.remove();
}

function follow(place) {
  const tail = document.querySelector("[data-tail]");
  const note = document.querySelector("[data-tail-note]");
  const pause = document.querySelector("[data-tail-pause]");
  let isPaused = false;
  let waiting = [];
  let skipped = 0;
  let hasMore = false;
  const stream = new EventSource(place.dataset.stream);

  const tell = () => {
    if (!note) return;
    const parts = [];
    if (isPaused) parts.push(`Tail paused; ${waiting.length} row(s) wait`);
    if (skipped) parts.push(`${skipped.toLocaleString()} more came than are shown`);
    else if (hasMore) parts.push("More came than are shown");
    note.textContent = parts.join(". ");
  };
  stream.addEventListener("open", () => tellConnection(true, "Live"));
  stream.addEventListener("status", (event) => {
    const told = JSON.parse(event.data);
    clockAheadMs = Date.now() - told.now_ms;
    if (Math.abs(clockAheadMs) < 2000) clockAheadMs = 0;
    tellConnection(true, "Live");
    fillParts(told.parts);
  });
  stream.addEventListener("events", (event) => {
    const told = JSON.parse(event.data);
    skipped += told.skipped;
    hasMore ||= told.is_more;
    if (tail) {
      if (told.rows.length) document.querySelector("[data-tail-empty]")?.remove();
      if (isPaused) waiting = waiting.concat(told.rows).slice(-ROWS_SHOWN_MAX);
      else addRows(tail, told.rows);
      addRows(tail, told.changed, false);
    }
    tell();
  });
  stream.addEventListener("bye", () => tellConnection(false, "Daemon is stopping; reconnecting"));
  stream.addEventListener("ended", () => {
    stream.close();
    tellConnection(false, "Your login ended; reload to log in again");
  });
  stream.addEventListener("error", () => {
    tellConnection(false, "Connection lost; reconnecting");
    // A refused stream (too many pages open, a login that ended) is final for the browser; we try again, slowly.
    if (stream.readyState === EventSource.CLOSED) {
      tellConnection(false, "No live view just now; trying again");
      setTimeout(() => follow(place), 5000);
    }
  });
  if (pause && !pause.dataset.isReady) {
    pause.hidden = false;
    pause.dataset.isReady = "1";
    pause.addEventListener("click", () => {
      isPaused = !isPaused;
      pause.setAttribute("aria-pressed", String(isPaused));
      pause.textContent = isPaused ? "Resume tail" : "Pause tail";
      if (!isPaused && tail) { addRows(tail, waiting); waiting = []; }
      tell();
    });
  }
  addEventListener("pagehide", () => stream.close(), { once: true });
}

// --- long work ---

async function poll(place) {
  let isEnded = false;
  try {
    const answer = await fetch(place.dataset.poll, { headers: { Accept: "text/html" } });
    if (answer.ok) place.replaceChildren(markup(await answer.text()));
    isEnded = answer.headers.has("X-Job-Ended") || (answer.status >= 400 && answer.status < 500);
  } catch { /* the daemon is away; ask again */ }
  if (!isEnded) setTimeout(() => poll(place), 1000);
}

// --- keys ---

let pendingGo = 0;

function chooseRow(step) {
  const rows = all("table.rows tbody tr").filter((row) => row.offsetParent);
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.classList.contains("is-chosen"));
  const next = rows[Math.max(0, Math.min(rows.length - 1, now < 0 ? 0 : now + step))];
  rows.forEach((row) => row.classList.toggle("is-chosen", row === next));
  next.scrollIntoView({ block: "nearest" });
  next.querySelector("a")?.focus({ preventScroll: true });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea, [contenteditable]")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (pendingGo && Date.now() - pendingGo < 1500) {
    pendingGo = 0;
    const link = document.querySelector(`.top nav a[data-key="${CSS.escape(event.key)}"]`);
    if (link) { event.preventDefault(); link.click(); }
    return;
  }
  const acts = {
    g: () => { pendingGo = Date.now(); },
    "/": () => document.querySelector("[data-filter]")?.focus(),
    j: () => chooseRow(1),
    k: () => chooseRow(-1),
    "?": () => byId("help").showModal(),
  };
  if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
}

// --- start ---

document.addEventListener("submit", askFirst);
document.addEventListener("click", copy);
document.addEventListener("keydown", onKey);
byId("help-open").hidden = false;
byId("help-open").addEventListener("click", () => byId("help").showModal());
for (const button of all("button[data-copy], button[data-copy-from]")) button.hidden = false;
setInterval(refreshAges, 1000);
document.querySelector(".top nav a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
for (const place of all("[data-poll]")) poll(place);
const streamed = document.querySelector("[data-stream]");
if (streamed) follow(streamed);

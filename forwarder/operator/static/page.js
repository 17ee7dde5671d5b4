// The page's one script. Everything can be read and done without it; it makes reading live and acting quick.
//
// What templates may use:
//   form[data-confirm="question"]   asks in a dialog, then posts with confirmed=1 (without script the server asks)
//   button[data-copy="text"]        copies, or [data-copy-from="id"] that element's text; hidden until this script runs
//   time[data-at="ms"]              its text is kept as an age
//   main[data-live]                 the page is asked for again each second, as long as the answer has it, too;
//                                   of it are taken each [data-part="name"] and the rows of [data-rows]; new rows wait
//                                   behind the button [data-new-rows]
//   [data-filter]                   the field that "/" focuses;  table.rows: j, k and Enter walk its rows
//   table.fixed                     one stop of Tab: arrows walk its rows and their links
"use strict";

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

// What is picked by its name says by itself of which kind it is.
function takeKind(event) {
  const picked = all("option", event.target.list ?? event.target).find((one) => one.value === event.target.value);
  const kind = picked?.dataset.kind && document.querySelector(`[name="to"][value="${picked.dataset.kind}"]`);
  if (kind) kind.checked = true;
}

// --- ages ---

const UNITS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
let clockAheadMs = 0; // of this browser against the daemon, learnt from its answers

function age(atMs) {
  const distance = (Date.now() - clockAheadMs - atMs) / 1000;
  if (Math.abs(distance) < 1) return "now";
  const [unit, name] = UNITS.find(([seconds]) => Math.abs(distance) >= seconds);
  const near = `${Math.floor(Math.abs(distance) / unit)} ${name}`;
  return distance > 0 ? `${near} ago` : `in ${near}`;
}

// --- the reader's own time beside UTC ---

const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const ownTime = (atMs) => `${new Date(atMs).toLocaleString("sv-SE")} ${ZONE}`;

function showOwnTimes(root) {
  if (ZONE === "UTC") return;
  for (const time of all("time[data-at]", root)) {
    time.title = `${time.title.split(" · ")[0]} · ${ownTime(Number(time.dataset.at))}`;
  }
  for (const field of all("input[data-utc]", root)) {
    const beside = field.nextElementSibling ?? field.parentElement.appendChild(document.createElement("small"));
    const atMs = Date.parse(`${field.value}Z`);
    beside.textContent = Number.isNaN(atMs) ? "" : ownTime(atMs);
    field.oninput = () => showOwnTimes(field.parentElement);
  }
}

function refreshAges() {
  if (document.hidden) return;
  for (const time of all("time[data-at]")) {
    const told = age(Number(time.dataset.at));
    if (time.textContent !== told) time.textContent = told;
  }
}

// --- the live view ---

// A page that lives is asked for again each second; its parts, and the rows of its list, are taken out of the answer.
function tellConnection(isLive, told) {
  const badge = byId("connection");
  badge.hidden = false;
  badge.classList.toggle("lost", !isLive);
  if (badge.textContent !== told) badge.textContent = told;
}

// What a place says, apart from ages, which change by themselves.
function meaning(place) {
  const bare = place.cloneNode(true);
  for (const time of all("time[data-at]", bare)) time.textContent = "";
  return bare.innerHTML;
}

const shown = new WeakMap(); // place → what the daemon last said there; what a person opened is not in it

function fill(place, fresh) {
  const said = meaning(fresh);
  if (shown.get(place) === said || place.contains(document.activeElement)) return;
  shown.set(place, said);
  place.replaceChildren(...fresh.childNodes);
  reveal(place);
}

// Rows that are shown say how they are now; new ones wait until they are asked for, so that nothing moves under a hand.
let waiting = null;

function fillRows(body, fresh) {
  const rows = all("tr", fresh);
  const held = all("tr", body);
  if (!held.length) return showRows(rows);
  const number = (row) => Number(row.dataset.sequence);
  const now = new Map(rows.map((row) => [number(row), row]));
  for (const row of held) {
    if (now.has(number(row))) fill(row, now.get(number(row)));
    else row.classList.toggle("is-gone", rows.length > 0 && number(row) > number(rows.at(-1))); // matches no longer
  }
  // What a search finds further back goes below: that moves nothing.
  const older = rows.filter((row) => held.length < rows.length && number(row) < number(held.at(-1)));
  for (const row of older) shown.set(row, meaning(row));
  body.append(...older);
  const came = rows.filter((row) => number(row) > number(held[0])).length;
  const pill = document.querySelector("[data-new-rows]");
  pill.hidden = !came;
  waiting = rows;
  const told = came < rows.length ? `${came} new` : `More than ${came} new; the rows below are no longer followed`;
  if (pill.textContent !== told) pill.textContent = told;
}

function showRows(rows) {
  const body = document.querySelector("[data-rows]");
  for (const row of rows) shown.set(row, meaning(row));
  body.replaceChildren(...rows);
  body.closest(".table").hidden = !rows.length;
  document.querySelector("[data-new-rows]").hidden = true;
}

function showNew() {
  showRows(waiting);
  scrollTo({ top: 0 });
  rove(document.querySelector("[data-rows] a"))?.focus();
}

// One link of a long table is a stop of Tab; arrows lead to the others.
function rove(link) {
  const table = link?.closest("table.fixed");
  if (table) for (const one of all("tbody a", table)) one.tabIndex = one === link ? 0 : -1;
  return link;
}

function take(fresh) {
  const now = fresh.querySelector("main[data-now]");
  if (!now || document.querySelector("dialog[open]")) return; // the form that asks must still be there when answered
  clockAheadMs = Date.now() - Number(now.dataset.now);
  if (Math.abs(clockAheadMs) < 2000) clockAheadMs = 0;
  document.title = fresh.title;
  const icon = fresh.getElementById("icon").getAttribute("href");
  if (byId("icon").getAttribute("href") !== icon) byId("icon").setAttribute("href", icon);
  const body = document.querySelector("[data-rows]");
  if (body) {
    fillRows(body, fresh.querySelector("[data-rows]"));
    rove(body.querySelector('a[tabindex="0"]') ?? body.querySelector("a"));
  }
  for (const place of all("[data-part]")) {
    const part = fresh.querySelector(`[data-part="${CSS.escape(place.dataset.part)}"]`);
    const isRead = place.querySelector(".chart, .table") && place.matches(":hover, :focus-within");
    if (part && !isRead) fill(place, part);
  }
  byId("main").toggleAttribute("data-live", now.hasAttribute("data-live"));
}

async function live() {
  if (!document.hidden) {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
      const isAtLogin = new URL(answer.url).pathname === "/login";
      if (answer.redirected && !isAtLogin) {
        location.replace(answer.url); // such as to the one event that a search names by now
        return;
      }
      if (isAtLogin || answer.status === 401) {
        tellConnection(false, "Your login ended; reload to log in again");
        return;
      }
      if (answer.ok) {
        take(new DOMParser().parseFromString(await answer.text(), "text/html"));
        tellConnection(true, "Live");
      } else {
        tellConnection(false, "The daemon is busy or stopping; trying again");
      }
    } catch {
      tellConnection(false, "Connection lost; reconnecting");
    }
  }
  if (byId("main").hasAttribute("data-live")) setTimeout(live, 1000);
}

// By the strip's own position: some Chromiums begin the order of Tab at what scrollIntoView was called on.
function bringIntoView(link) {
  const strip = link?.closest("nav");
  if (strip) strip.scrollLeft += link.getBoundingClientRect().right - strip.getBoundingClientRect().right;
}

// What needs this script is hidden until it runs.
function reveal(root) {
  for (const button of all("button[data-copy], button[data-copy-from]", root)) button.hidden = false;
  showOwnTimes(root);
}

// --- keys ---

let pendingGo = 0;

function chooseRow(step) {
  const rows = all("table.rows tbody tr").filter((row) => row.offsetParent);
  if (!rows.length) return;
  const now = rows.findIndex((row) => row.classList.contains("is-chosen") || row.contains(document.activeElement));
  const next = rows[Math.max(0, Math.min(rows.length - 1, now < 0 ? 0 : now + step))];
  rows.forEach((row) => row.classList.toggle("is-chosen", row === next));
  next.scrollIntoView({ block: "nearest" });
  rove(next.querySelector("a"))?.focus({ preventScroll: true });
}

function walkTable(event) {
  const link = event.target.closest("table.fixed tbody a");
  if (!link) return;
  const links = all("a", link.closest("tr"));
  const acts = {
    ArrowDown: () => chooseRow(1),
    ArrowUp: () => chooseRow(-1),
    ArrowRight: () => rove(links[links.indexOf(link) + 1])?.focus(),
    ArrowLeft: () => rove(links[links.indexOf(link) - 1])?.focus(),
  };
  if (acts[event.key]) { event.preventDefault(); acts[event.key](); }
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
document.addEventListener("input", takeKind);
document.addEventListener("keydown", onKey);
document.addEventListener("keydown", walkTable);
document.addEventListener("focusin", (event) => rove(event.target.closest("table.fixed tbody a")));
byId("help-open").hidden = false;
byId("help-open").addEventListener("click", () => byId("help").showModal());
reveal(document);
document.querySelector("[data-new-rows]")?.addEventListener("click", showNew);
rove(document.querySelector("table.fixed tbody a"));
setInterval(refreshAges, 1000);
bringIntoView(document.querySelector(".top nav a[aria-current]"));
for (const place of all("[data-part], [data-rows] tr")) shown.set(place, meaning(place));
if (byId("main").hasAttribute("data-live")) live();

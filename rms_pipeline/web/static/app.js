// Polling, made considerate: not in a hidden tab, and never showing an error page inside a panel.
// And a place for what was refused, which no polling takes away.
"use strict";

const isPoll = (ctx) => ctx.request.method === "GET" && ctx.request.action.startsWith("/fragments/");

// Looked up each time: htmx renews the page's body when people go back.
const notice = () => document.getElementById("notice");
const showOffline = (is) => { document.getElementById("offline").hidden = !is; };

function tell(text) {
  const told = document.createElement("p");
  told.className = "notice bad";
  const words = document.createElement("span");
  words.textContent = text;
  const dismiss = document.createElement("a");
  dismiss.href = window.location.href;
  dismiss.textContent = "Dismiss";
  dismiss.dataset.dismiss = "";
  told.append(words, " ", dismiss);
  notice().replaceChildren(told);
}

function errorIn(text) {
  try {
    return String(JSON.parse(text).error);
  } catch {
    return "The answer could not be read. Try again, or reload the page.";
  }
}

document.addEventListener("click", (event) => {
  if (!event.target.closest("[data-dismiss]")) return;
  event.preventDefault();
  notice().replaceChildren();
});

document.addEventListener("htmx:before:request", (event) => {
  const { ctx } = event.detail;
  // Not `disabled`, which would take the focus away.
  const unavailable = ctx.request.form?.querySelector("button[aria-disabled=true]");
  if (unavailable || (document.hidden && isPoll(ctx))) event.preventDefault();
});

document.addEventListener("htmx:before:response", (event) => {
  const { ctx } = event.detail;
  const { status } = ctx.response;
  if (status === 401) {
    // The token has changed, or the session is over: the page itself asks for it.
    window.location.reload();
    event.preventDefault();
  } else if (isPoll(ctx) && status >= 400) {
    showOffline(true);
    event.preventDefault();
  } else if (status < 400) {
    showOffline(false);
  }
});

document.addEventListener("htmx:after:request", (event) => {
  const { ctx } = event.detail;
  const type = ctx.response.headers.get("Content-Type") ?? "";
  if (type.startsWith("application/json")) {
    event.preventDefault();
    tell(errorIn(ctx.text));
  } else if (ctx.response.status >= 400 && !ctx.text.includes(`id="${ctx.target.id}"`)) {
    // Not a refusal with the panel in it, which is shown like any other: a proxy's own page.
    event.preventDefault();
    tell(`The service cannot be reached at the moment (${ctx.response.status}). Try again shortly.`);
  } else if (!isPoll(ctx)) {
    // What was told before is over; the answer itself may bring another notice.
    notice().replaceChildren();
  }
});

document.addEventListener("htmx:error", (event) => {
  // No answer at all.
  const { ctx } = event.detail;
  if (!ctx || ctx.response) return;
  showOffline(true);
  // Polling tries again by itself. What a person asked for does not, and the page still shows what
  // was asked for before, whatever the fields say.
  if (!isPoll(ctx)) tell("The service did not answer, so this is not shown or done yet. Try again.");
});

document.addEventListener("visibilitychange", () => {
  // Whoever comes back sees what is, not what was.
  if (!document.hidden) {
    for (const part of document.querySelectorAll("[hx-trigger^=every]")) window.htmx.trigger(part, "every");
    renew();
  }
});

// A day or a calendar stays open for days, on a wall or in a tab. It is asked for again each minute,
// and shown where it differs: otherwise it would still show yesterday as today.
const renewed = () => document.querySelector("main[data-renew]");
// As it was sent: scripts run after all of it was read, and before anything is put into it.
let sent = renewed()?.innerHTML;

// Nobody loses the place, the words or the rows that they are about to use.
const isInUse = (main) => main.contains(document.activeElement) && main !== document.activeElement
  || main.contains(window.getSelection().anchorNode) && !window.getSelection().isCollapsed
  || main.querySelector("details[open]") !== null;

async function renew() {
  const main = renewed();
  const address = window.location.href;
  if (!main || document.hidden || isInUse(main)) return;
  let answer, text;
  try {
    answer = await fetch(address, { headers: { Accept: "text/html" } });
    text = await answer.text();
  } catch {
    // The line of health says that the service does not answer.
    return;
  }
  if (answer.status === 401) window.location.reload();
  const page = new DOMParser().parseFromString(text, "text/html");
  const found = page.querySelector("main[data-renew]");
  if (!answer.ok || !found || found.innerHTML === sent) return;
  // Meanwhile people may have gone on.
  if (renewed() !== main || window.location.href !== address || isInUse(main)) return;
  sent = found.innerHTML;
  document.title = page.title;
  main.replaceChildren(...found.childNodes);
  window.htmx.process(main);
  fill();
}
setInterval(renew, 60_000);

// What a form of filters leaves out of the address: what is empty, and of a period its two dates.
document.addEventListener("formdata", (event) => {
  if (!event.target.closest("[data-clean]")) return;
  const data = event.formData;
  for (const [name, value] of [...data.entries()]) {
    if (value !== "custom") continue;
    const [first, last] = [data.get(`${name}_from`), data.get(`${name}_to`)];
    data.set(name, first || last ? `${first}..${last}` : "");
  }
  for (const name of new Set([...data.keys()])) {
    const said = data.getAll(name).filter((value) => value !== "");
    data.delete(name);
    const isPart = /_(from|to)$/.test(name) || (name === "sort" && said[0] === "-updated");
    if (!isPart) for (const value of said) data.append(name, value);
  }
});

// What a page has beside what people came for, asked for when that is there.
function fill() {
  for (const part of document.querySelectorAll("[data-fill]")) {
    if (part.dataset.filled === part.dataset.fill) continue;
    part.dataset.filled = part.dataset.fill;
    window.htmx.ajax("GET", part.dataset.fill, { target: part, swap: "innerHTML" });
  }
}
document.addEventListener("DOMContentLoaded", fill);
document.addEventListener("htmx:after:swap", fill);

// A page that is there to be printed.
window.addEventListener("load", () => {
  if (document.querySelector("[data-print]")) window.print();
});

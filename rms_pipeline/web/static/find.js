// The box to find anything: reached by Ctrl-K or / from anywhere and left by Ctrl-K or Escape,
// answered while typing, and led through by arrow keys. Without this script it is a form like any other.
"use strict";

// Looked up each time: htmx renews the page's body when people go back.
const box = () => document.querySelector("[data-finder]");
const found = () => document.getElementById("finds");
const options = () => [...found().querySelectorAll("a[role=option]")];
const chosen = () => found().querySelector("[aria-selected=true]");
// Closed on purpose: an answer that is still on its way does not open it again.
let isClosed = false;
// Where the keyboard was before a key led to the box, so that leaving the box leads back there.
let before = null;

function enter() {
  if (document.activeElement !== box()) before = document.activeElement;
  isClosed = false;
  box().focus();
  box().select();
}

function leave() {
  isClosed = true;
  show(false);
  box().blur();
  // htmx may have put another element in its place meanwhile.
  if (before?.isConnected) before.focus();
  before = null;
}

function show(is) {
  const has = is && found().childElementCount > 0;
  found().hidden = !has;
  box().setAttribute("aria-expanded", String(has));
  if (!has) choose(null);
}

function choose(option) {
  chosen()?.setAttribute("aria-selected", "false");
  box().removeAttribute("aria-activedescendant");
  if (!option) return;
  option.setAttribute("aria-selected", "true");
  box().setAttribute("aria-activedescendant", option.id);
  option.scrollIntoView({ block: "nearest" });
}

function move(by) {
  const all = options();
  if (all.length === 0) return;
  const now = all.indexOf(chosen());
  const next = now === -1 ? (by > 0 ? 0 : all.length - 1) : now + by;
  // Past the ends nothing is chosen, so that Enter asks for what was typed.
  choose(all[next] ?? null);
}

document.addEventListener("keydown", (event) => {
  if (!box()) return;
  const isShortcut = (event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k";
  const writes = event.target.closest("input, select, textarea, [contenteditable]") !== null;
  const isSlash = event.key === "/" && !writes && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (isShortcut || isSlash) {
    event.preventDefault();
    if (isShortcut && document.activeElement === box()) leave();
    else enter();
    return;
  }
  if (event.target !== box()) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    isClosed = false;
    show(true);
    move(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Enter" && chosen()) {
    event.preventDefault();
    chosen().click();
  } else if (event.key === "Escape") {
    // Once to close what was found, and again to leave. A browser would empty the field at once,
    // which asks for everything and opens it again.
    if (found().hidden) return leave();
    event.preventDefault();
    isClosed = true;
    show(false);
  }
});

document.addEventListener("input", (event) => {
  if (event.target === box()) isClosed = false;
});

document.addEventListener("focusout", (event) => {
  const form = event.target.closest?.("form.find");
  if (form && !form.contains(event.relatedTarget)) {
    show(false);
    isClosed = false;
  }
});

// A click on what was found must not take the focus first, and so what was found away.
document.addEventListener("mousedown", (event) => {
  if (event.target.closest?.("#finds")) event.preventDefault();
});

document.addEventListener("DOMContentLoaded", () => {
  new MutationObserver((changes) => {
    if (!changes.some((change) => change.target.id === "finds")) return;
    // What was chosen of other answers is no longer there.
    choose(null);
    show(document.activeElement === box() && !isClosed);
  }).observe(document.body, { childList: true, subtree: true });
});

// htmx listens from a moment after the scripts on, and a busy browser may let a person be first.
setTimeout(() => {
  if (box() && document.activeElement === box()) window.htmx.trigger(box(), "focus");
});

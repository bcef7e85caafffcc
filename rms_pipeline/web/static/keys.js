// Keys that lead somewhere: a link with data-key is followed when that key is pressed.
"use strict";

// Where a key writes, chooses or scrolls, it leads nowhere.
const isTaken = (element) => element.closest(
  "input, select, textarea, [contenteditable], .scroll, pre[tabindex], [role=listbox]",
) !== null;

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (isTaken(event.target)) return;
  const link = document.querySelector(`a[data-key="${CSS.escape(event.key)}"]`);
  if (!link) return;
  event.preventDefault();
  link.click();
});

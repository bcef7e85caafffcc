// Polling, made considerate: not in a hidden tab, and never showing an error page inside a panel.
"use strict";

const offline = document.getElementById("offline");
const isPoll = (ctx) => ctx.request.method === "GET" && ctx.request.action.startsWith("/fragments/");

document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden && isPoll(event.detail.ctx)) event.preventDefault();
});

document.addEventListener("htmx:before:response", (event) => {
  const { ctx } = event.detail;
  const { status } = ctx.response;
  if (status === 401) {
    // The token has changed, or the session is over: the page itself asks for it.
    window.location.reload();
    event.preventDefault();
  } else if (isPoll(ctx) && status >= 400) {
    offline.hidden = false;
    event.preventDefault();
  } else if (status < 400) {
    offline.hidden = true;
  }
});

document.addEventListener("htmx:error", (event) => {
  // No answer at all.
  if (event.detail.ctx && !event.detail.ctx.response) offline.hidden = false;
});

document.addEventListener("visibilitychange", () => {
  // Whoever comes back sees what is, not what was.
  if (!document.hidden) {
    for (const part of document.querySelectorAll("[hx-trigger^=every]")) window.htmx.trigger(part, "every");
  }
});

/* Everything here is an improvement of pages that work without it: copy buttons, busy buttons, dialogs, live parts. */
"use strict";

/* Copy buttons. `data-copy` is the id of the element whose text is meant. */
document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const text = source.value ?? source.textContent;
  let copied = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without the clipboard API, or without permission: select it, so that one key press copies.
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    copied = document.execCommand("copy");
  }
  const label = button.querySelector("[data-label]");
  label.dataset.was ??= label.textContent;
  label.textContent = copied ? "Copied" : "Press Ctrl+C";
  announce(copied ? "Copied" : "Selected. Press Ctrl+C to copy.");
  clearTimeout(button.timer);
  button.timer = setTimeout(() => (label.textContent = label.dataset.was), 2000);
});

function announce(text) {
  const live = document.getElementById("announcer");
  if (live) live.textContent = text;
}

for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;

/* One submit is one submit. `data-busy` says what is happening meanwhile. */
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  if (form.method !== "post") return;
  form.dataset.sent = "1";
  const button = event.submitter ?? form.querySelector("button[type=submit]");
  if (!button) return;
  button.setAttribute("aria-busy", "true");
  if (button.dataset.busy) {
    button.dataset.was = button.textContent;
    button.textContent = button.dataset.busy;
    announce(button.dataset.busy);
  }
});

/* A page brought back by the back button can be submitted again. */
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
  for (const button of document.querySelectorAll("button[aria-busy]")) {
    button.removeAttribute("aria-busy");
    if (button.dataset.was) button.textContent = button.dataset.was;
  }
});

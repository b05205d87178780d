/* Dialogs: a link with `data-dialog` opens its page in a dialog. */

import { enhance } from "./enhance.js";

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  const response = await fetch(link.href, { headers: { "X-Strake-Dialog": "1" } }).catch(() => null);
  // A redirect means that the person has to sign in first. An error page explains itself best as a page.
  if (!response?.ok || response.redirected) {
    location.assign(link.href);
    return;
  }
  const dialog = document.getElementById("dialog");
  dialog.innerHTML = await response.text();
  dialog.setAttribute("aria-label", dialog.querySelector("h2").textContent);
  enhance(dialog);
  dialog.showModal();
});

document.addEventListener("click", (event) => {
  const dialog = document.getElementById("dialog");
  if (!dialog?.open) return;
  if (event.target === dialog || event.target.closest("[data-close]")) {
    event.preventDefault();
    dialog.close();
  }
});

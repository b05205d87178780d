/* Copy buttons: `data-copy` is the id of the element to copy. */

import { announce } from "./announcer.js";
import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  let copied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without the clipboard API or the permission for it, select the text, so that one key press copies it.
    getSelection().selectAllChildren(source);
    copied = document.execCommand("copy");
  }
  const label = button.querySelector("[data-label]");
  label.textContent = copied ? "Copied" : "Press Ctrl+C";
  announce(copied ? "Copied" : "Selected. Press Ctrl+C to copy.");
  clearTimeout(button.timer);
  button.timer = setTimeout(() => (label.textContent = "Copy"), 2000);
});

/* The theme changes without a request. The cookie is the one that /theme/ writes. */

import { announce } from "./announcer.js";
import { keep } from "./cookies.js";

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[name=theme]");
  if (!button) return;
  event.preventDefault();
  keep(button.form.dataset.themeCookie, button.value);
  if (button.value) document.documentElement.dataset.theme = button.value;
  else delete document.documentElement.dataset.theme;
  for (const other of button.form.elements) other.setAttribute?.("aria-pressed", String(other === button));
  announce(`Theme: ${button.textContent.trim()}`);
});

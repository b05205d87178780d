/* The theme changes without a request. The cookie is the one that /theme/ writes. */

import { announce } from "./announcer.js";

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[name=theme]");
  if (!button) return;
  event.preventDefault();
  const age = button.value ? 31536000 : 0;
  document.cookie = `strake-theme=${button.value}; path=/; max-age=${age}; samesite=lax`;
  if (button.value) document.documentElement.dataset.theme = button.value;
  else delete document.documentElement.dataset.theme;
  for (const other of button.form.elements) other.setAttribute?.("aria-pressed", String(other === button));
  announce(`Theme: ${button.textContent.trim()}`);
});

/* Refresh: `data-refresh` is the URL of the new content, `data-every` the interval in seconds. */

import { enhance, onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const part of root.querySelectorAll("[data-refresh]")) keepFresh(part);
});

function keepFresh(part) {
  let failures = 0;
  const refresh = async () => {
    if (!part.isConnected) return;
    const inUse = part.contains(document.activeElement) || !getSelection().isCollapsed;
    if (!document.hidden && !inUse) {
      try {
        const response = await fetch(part.dataset.refresh, { headers: { "X-Strake-Part": "1" } });
        if (response.redirected || [401, 403, 404].includes(response.status)) return;
        if (!response.ok) throw new Error();
        replaceInside(part, await response.text());
        failures = 0;
      } catch {
        failures += 1;
      }
    }
    schedule();
  };
  const schedule = () => setTimeout(refresh, part.dataset.every * 1000 * Math.min(2 ** failures, 20));
  schedule();
}

function replaceInside(part, html) {
  const open = [...part.querySelectorAll("details[open]")].map((details) => details.id);
  part.innerHTML = html;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  enhance(part);
}

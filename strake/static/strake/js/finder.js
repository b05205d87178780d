/* Search: `data-finder` is the id of what it filters: sections of lists whose items have `data-words`. */

import { announce } from "./announcer.js";
import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const finder of root.querySelectorAll("[data-finder]")) filterList(finder);
});

function filterList(finder) {
  const list = document.getElementById(finder.dataset.finder);
  const input = finder.querySelector("input");
  const items = [...list.querySelectorAll("li[data-words]")];
  const found = () => items.filter((item) => !item.hidden);
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of items) {
      const text = `${item.textContent} ${item.dataset.words}`.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
    for (const section of list.querySelectorAll("section")) section.hidden = !section.querySelector("li:not([hidden])");
    list.querySelector("[data-none]").hidden = found().length > 0;
  };
  input.addEventListener("input", () => {
    filter();
    announce(`${found().length} found`);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && input.value.trim()) found()[0]?.querySelector("a").click();
  });
  finder.hidden = false;
  filter(); // the browser may have kept what was typed
}

/* Lists with checkboxes: the one in the head selects all of the page, and the button says how many are selected. */

import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const all of root.querySelectorAll("[data-select-all]")) followSelection(all);
});

function followSelection(all) {
  const form = document.getElementById(all.dataset.selectAll);
  const boxes = [...form.elements].filter((field) => field.type === "checkbox");
  const button = form.querySelector("button");
  const words = button.textContent;
  const show = () => {
    const count = boxes.filter((box) => box.checked).length;
    all.checked = count === boxes.length;
    all.indeterminate = count > 0 && count < boxes.length;
    button.disabled = count === 0;
    button.textContent = count ? words.replace("selected", `${count} selected`) : words;
  };
  all.addEventListener("change", () => {
    for (const box of boxes) box.checked = all.checked;
    show();
  });
  for (const box of boxes) box.addEventListener("change", show);
  addEventListener("pageshow", show); // the browser may have kept what was selected
  all.hidden = boxes.length === 0;
  show();
}

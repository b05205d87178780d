/* Charts: the values of one step by mouse, touch and arrow keys. Without JavaScript, the <title> of a step has them. */

import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const plot of root.querySelectorAll("[data-chart]")) showValues(plot);
});

function showValues(plot) {
  const steps = [...plot.querySelectorAll(".step")];
  const texts = steps.map((step) => {
    const title = step.querySelector("title");
    title.remove(); // the browser would show it too
    return title.textContent;
  });
  const shown = document.createElement("output");
  shown.className = "chart-values";
  shown.hidden = true;
  plot.append(shown);
  plot.tabIndex = 0;
  plot.setAttribute("role", "group");
  let current = -1;

  function show(index) {
    steps[current]?.classList.remove("current");
    current = index;
    shown.hidden = index < 0;
    if (index < 0) return;
    steps[index].classList.add("current");
    shown.textContent = texts[index];
    const chart = plot.querySelector("svg");
    const middle = ((index + 0.5) / steps.length) * chart.clientWidth - shown.offsetWidth / 2;
    const room = chart.clientWidth - shown.offsetWidth;
    shown.style.insetInlineStart = `${chart.getBoundingClientRect().left - plot.getBoundingClientRect().left + Math.max(0, Math.min(middle, room))}px`;
  }

  const showAt = (event) => {
    const box = plot.querySelector("svg").getBoundingClientRect();
    const index = Math.floor(((event.clientX - box.left) / box.width) * steps.length);
    show(Math.max(0, Math.min(index, steps.length - 1)));
  };
  plot.addEventListener("pointermove", showAt);
  plot.addEventListener("pointerdown", showAt);
  plot.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1));
  plot.addEventListener("blur", () => show(-1));
  plot.addEventListener("keydown", (event) => {
    const last = steps.length - 1;
    const from = current < 0 ? last + 1 : current;
    const moves = { ArrowLeft: from - 1, ArrowRight: Math.min(from + 1, last), Home: 0, End: last, Escape: -1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(event.key === "Escape" ? -1 : Math.max(0, moves[event.key]));
  });
}

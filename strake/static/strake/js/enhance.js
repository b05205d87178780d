/* Parts of a page arrive later too: in dialogs, and in place of parts that refresh. */

const steps = [];

/** Run `step(root)` for the page, and for each part that is added to it. */
export function onEnhance(step) {
  steps.push(step);
}

export function enhance(root) {
  for (const step of steps) step(root);
}

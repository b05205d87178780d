/* `/` moves to the search field of the page. */

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, select, textarea, [contenteditable]")) return;
  const field = document.querySelector("[data-search], [data-finder] input");
  if (!field) return;
  event.preventDefault();
  field.focus();
  field.select();
});

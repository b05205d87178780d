/* Menus that are `details`: only one is open, and Escape or a click elsewhere closes it. They work without this too. */

const openMenus = () => document.querySelectorAll("details[data-menu][open]");

document.addEventListener("click", (event) => {
  // A dialog gives the focus back to the link in the menu that opened it.
  if (event.target.closest("dialog")) return;
  for (const menu of openMenus()) if (!menu.contains(event.target)) menu.open = false;
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  for (const menu of openMenus()) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

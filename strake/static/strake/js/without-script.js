/* Hide what only helps without JavaScript, and show what only works with it. */

import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const element of root.querySelectorAll("[data-without-script]")) element.hidden = true;
  for (const element of root.querySelectorAll("[data-with-script]")) element.hidden = false;
});

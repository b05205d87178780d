/* Hide what only helps without JavaScript. */

import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const element of root.querySelectorAll("[data-without-script]")) element.hidden = true;
});

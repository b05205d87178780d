/* Show the local time of the browser as the hover text of times. */

import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const time of root.querySelectorAll("time[datetime]")) time.title = new Date(time.dateTime).toLocaleString();
});

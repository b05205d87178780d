/* The server shows times in the zone that this cookie names. */

import { keep } from "./cookies.js";

const named = document.querySelector("[data-time-zone-cookie]");
if (named) keep(named.dataset.timeZoneCookie, Intl.DateTimeFormat().resolvedOptions().timeZone);

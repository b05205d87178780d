/* Improves pages that also work without it. The server joins the modules (strake/pages/static_files.py). */

import { enhance } from "./enhance.js";
import "./charts.js";
import "./copy.js";
import "./dialogs.js";
import "./drafts.js";
import "./finder.js";
import "./forms.js";
import "./menus.js";
import "./refresh.js";
import "./search.js";
import "./secrets.js";
import "./selection.js";
import "./theme.js";
import "./times.js";
import "./without-script.js";

enhance(document);

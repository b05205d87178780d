/* Improves pages that also work without it: copy buttons, dialogs, busy buttons, parts that refresh, drafts. */
"use strict";

enhance(document);

function enhance(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) button.hidden = false;
  for (const element of root.querySelectorAll("[data-without-script]")) element.hidden = true;
  for (const time of root.querySelectorAll("time[datetime]")) time.title = new Date(time.dateTime).toLocaleString();
  for (const part of root.querySelectorAll("[data-refresh]")) keepFresh(part);
  for (const form of root.querySelectorAll("form[data-draft]")) keepDraft(form);
  for (const finder of root.querySelectorAll("[data-finder]")) filterList(finder);
  for (const input of root.querySelectorAll("input[data-secret]")) validateSecret(input);
  for (const shown of root.querySelectorAll("[data-replace-address]")) {
    // The page with a token is the response to a POST. After this, a reload opens the endpoint and does not repeat it.
    history.replaceState(null, "", shown.dataset.replaceAddress);
    // The form was saved, so its draft must not fill in the next one.
    for (const name of Object.keys(sessionStorage)) if (name.startsWith("draft:")) sessionStorage.removeItem(name);
  }
}

function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/* --- Copy buttons: `data-copy` is the id of the element to copy --------------------------------------------------- */

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  let copied = true;
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch {
    // Without the clipboard API or the permission for it, select the text, so that one key press copies it.
    getSelection().selectAllChildren(source);
    copied = document.execCommand("copy");
  }
  const label = button.querySelector("[data-label]");
  label.textContent = copied ? "Copied" : "Press Ctrl+C";
  announce(copied ? "Copied" : "Selected. Press Ctrl+C to copy.");
  clearTimeout(button.timer);
  button.timer = setTimeout(() => (label.textContent = "Copy"), 2000);
});

/* --- Dialogs: a link with `data-dialog` opens its page in a dialog ------------------------------------------------ */

document.addEventListener("click", async (event) => {
  const link = event.target.closest("a[data-dialog]");
  if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  const response = await fetch(link.href, { headers: { "X-Strake-Dialog": "1" } }).catch(() => null);
  // A redirect means that the person has to sign in first. An error page explains itself best as a page.
  if (!response?.ok || response.redirected) {
    location.assign(link.href);
    return;
  }
  const dialog = document.getElementById("dialog");
  dialog.innerHTML = await response.text();
  dialog.setAttribute("aria-label", dialog.querySelector("h2").textContent);
  enhance(dialog);
  dialog.showModal();
});

document.addEventListener("click", (event) => {
  const dialog = document.getElementById("dialog");
  if (!dialog?.open) return;
  if (event.target === dialog || event.target.closest("[data-close]")) {
    event.preventDefault();
    dialog.close();
  }
});

/* --- Forms -------------------------------------------------------------------------------------------------------- */

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  // Ignore a second click.
  if (form.dataset.sent) {
    event.preventDefault();
    return;
  }
  form.dataset.sent = "1";
  const button = event.submitter ?? form.querySelector("button[type=submit]");
  const body = new FormData(form, button);
  setBusy(button);
  if (form.dataset.inline) {
    event.preventDefault();
    showInline(form, body, button);
  } else if ("stay" in form.dataset) {
    event.preventDefault();
    sendAndStay(form, body, button);
  }
});

function setBusy(button) {
  button.setAttribute("aria-busy", "true");
  if (!button.dataset.busy) return;
  button.idle = [...button.childNodes];
  button.textContent = button.dataset.busy;
  announce(button.dataset.busy);
}

function setIdle(form, button) {
  delete form.dataset.sent;
  button.removeAttribute("aria-busy");
  if (button.idle) button.replaceChildren(...button.idle);
}

/* Make the forms usable again after the back button restored the page. */
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.querySelectorAll("form[data-sent]")) {
    for (const button of form.querySelectorAll("button[aria-busy]")) setIdle(form, button);
  }
});

/* Show the response to a form in the element with the id `data-inline`. */
async function showInline(form, body, button) {
  const target = document.getElementById(form.dataset.inline);
  try {
    const response = await fetch(form.action, { method: "POST", body, headers: { "X-Strake-Part": "1" } });
    if (!response.ok || response.redirected) throw new Error();
    target.innerHTML = await response.text();
  } catch {
    target.textContent = "That did not work. Reload the page, and sign in again if you are asked to.";
  }
  setIdle(form, button);
}

/* Send a form without leaving the page. The input survives if the server does not respond, and a key that could not be
   checked stays in its field. */
async function sendAndStay(form, body, button) {
  let response;
  try {
    response = await fetch(form.action || location.href, { method: "POST", body });
  } catch {
    setIdle(form, button);
    alertAbove(form, "Strake could not be reached. Nothing was saved; try again.");
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!page.querySelector(".shell")) {
    location.assign(response.url); // the session has ended
    return;
  }
  // Show this response: the server has already removed its message, so another request would not show it.
  if (response.redirected) history.pushState(null, "", response.url);
  const secret = form.querySelector("input[data-secret]")?.value;
  const fresh = page.querySelector("main");
  document.title = page.title;
  document.querySelector("main").replaceWith(fresh);
  const kept = fresh.querySelector("form[data-keep-secret] input[data-secret]");
  if (kept && secret) kept.value = secret;
  enhance(fresh);
  (fresh.querySelector("[aria-invalid=true]") ?? fresh).focus();
  scrollTo(0, 0);
}

function alertAbove(form, text) {
  form.querySelector("[data-alert]")?.remove();
  const notice = document.createElement("p");
  notice.className = "notice bad";
  notice.dataset.alert = "";
  notice.setAttribute("role", "alert");
  notice.textContent = text;
  form.prepend(notice);
}

/* Warn about an unlikely key while it is pasted. The server checks the key again. */
function validateSecret(input) {
  const notes = document.createElement("p");
  notes.className = "help";
  notes.setAttribute("role", "status");
  input.after(notes);
  input.addEventListener("input", () => {
    const key = input.value.trim();
    const prefix = /^(sk-ant-|AIza|xai-|sk-or-|gsk_|pplx-|fw_)/.exec(key)?.[0];
    const wanted = input.placeholder.replace("…", "");
    if (/\s/.test(key)) notes.textContent = "There is a space inside. A key has none; was something else copied too?";
    else if (/[^\x21-\x7e]/.test(key)) notes.textContent = "There is a character in it that keys do not have.";
    else if (key.startsWith("strk_")) notes.textContent = "This is a Strake token. Paste the key of the provider.";
    else if (prefix && wanted.length > 2 && !key.startsWith(wanted) && !wanted.startsWith(prefix))
      notes.textContent = `Keys here usually look like ${input.placeholder} Is this one of another provider?`;
    else notes.textContent = "";
  });
}

/* Keep the input of a form in this tab, in case the session ends before it is sent. Secrets are never kept. */
function keepDraft(form) {
  const name = `draft:${form.dataset.draft}`;
  const fields = [...form.querySelectorAll("input, select, textarea")].filter(
    (field) => !["hidden", "password", "submit"].includes(field.type) && !("undrafted" in field.dataset),
  );
  if (!form.querySelector("[aria-invalid=true]")) {
    const draft = JSON.parse(sessionStorage.getItem(name) ?? "{}");
    for (const field of fields) field.value ||= draft[field.name] ?? "";
  }
  form.addEventListener("input", () => {
    sessionStorage.setItem(name, JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, field.value]))));
  });
}

/* Send a form as soon as the choice changes. */
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

/* --- Search: `data-finder` is the id of what it filters: sections of lists whose items have `data-words` ----------- */

function filterList(finder) {
  const list = document.getElementById(finder.dataset.finder);
  const input = finder.querySelector("input");
  const items = [...list.querySelectorAll("li[data-words]")];
  const found = () => items.filter((item) => !item.hidden);
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of items) {
      const text = `${item.textContent} ${item.dataset.words}`.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
    for (const section of list.querySelectorAll("section")) section.hidden = !section.querySelector("li:not([hidden])");
    list.querySelector("[data-none]").hidden = found().length > 0;
  };
  input.addEventListener("input", () => {
    filter();
    announce(`${found().length} found`);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && input.value.trim()) found()[0]?.querySelector("a").click();
  });
  finder.hidden = false;
  filter(); // the browser may have kept what was typed
}

/* --- Refresh: `data-refresh` is the URL of the new content, `data-every` the interval in seconds ------------------ */

function keepFresh(part) {
  let failures = 0;
  const refresh = async () => {
    if (!part.isConnected) return;
    const inUse = part.contains(document.activeElement) || !getSelection().isCollapsed;
    if (!document.hidden && !inUse) {
      try {
        const response = await fetch(part.dataset.refresh, { headers: { "X-Strake-Part": "1" } });
        if (response.redirected || [401, 403, 404].includes(response.status)) return;
        if (!response.ok) throw new Error();
        replaceInside(part, await response.text());
        failures = 0;
      } catch {
        failures += 1;
      }
    }
    schedule();
  };
  const schedule = () => setTimeout(refresh, part.dataset.every * 1000 * Math.min(2 ** failures, 20));
  schedule();
}

function replaceInside(part, html) {
  const open = [...part.querySelectorAll("details[open]")].map((details) => details.id);
  part.innerHTML = html;
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  for (const time of part.querySelectorAll("time[datetime]")) time.title = new Date(time.dateTime).toLocaleString();
}

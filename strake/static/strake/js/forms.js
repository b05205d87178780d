/* Forms: ignored second clicks, busy buttons, responses that are shown without leaving the page. */

import { announce } from "./announcer.js";
import { enhance } from "./enhance.js";

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
    target.textContent = "That didn't work. Reload the page, and sign in again if asked.";
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
    alertAbove(form, "Strake didn't respond. Nothing was saved. Try again.");
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (!page.querySelector(".shell")) {
    if (response.redirected) {
      const signIn = new URL(response.url); // the session has ended
      signIn.searchParams.set("unsaved", "1");
      location.assign(signIn);
      return;
    }
    // An error page. The input stays, so its text goes above the form.
    setIdle(form, button);
    alertAbove(form, [...page.querySelectorAll("main :is(h1, h1 + p)")].map((part) => part.textContent.trim()).join(". "));
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

/* Send a form as soon as the choice changes. */
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-submit]")) event.target.form.requestSubmit();
});

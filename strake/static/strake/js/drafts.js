import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const form of root.querySelectorAll("form[data-draft]")) keepDraft(form);
  for (const shown of root.querySelectorAll("[data-replace-address]")) {
    // The page with a token is the response to a POST. After this, a reload opens the endpoint and does not repeat it.
    history.replaceState(null, "", shown.dataset.replaceAddress);
    // The form was saved, so its draft must not fill in the next one.
    for (const name of Object.keys(sessionStorage)) if (name.startsWith("draft:")) sessionStorage.removeItem(name);
  }
});

/* Keep the input of a form in this tab, in case the session ends before it is sent. Secrets are never kept. */
function keepDraft(form) {
  const name = `draft:${form.dataset.draft}`;
  const fields = [...form.querySelectorAll("input, select, textarea")].filter(
    (field) => !["hidden", "password", "submit"].includes(field.type) && !("undrafted" in field.dataset),
  );
  const draft = JSON.parse(sessionStorage.getItem(name) ?? "null");
  if (draft && !form.querySelector("[aria-invalid=true]")) restore(form, fields, draft, name);
  form.addEventListener("input", () => {
    sessionStorage.setItem(name, JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, valueOf(field)]))));
  });
}

function restore(form, fields, draft, name) {
  const changed = fields.filter((field) => field.name in draft && draft[field.name] !== valueOf(field));
  if (!changed.length) return;
  const before = changed.map((field) => valueOf(field));
  changed.forEach((field) => setValue(field, draft[field.name]));
  const note = document.createElement("p");
  note.className = "draft-restored";
  note.setAttribute("role", "status");
  note.append("Restored · ");
  const clear = document.createElement("button");
  clear.type = "button";
  clear.className = "link";
  clear.textContent = "Clear";
  clear.addEventListener("click", () => {
    changed.forEach((field, index) => setValue(field, before[index]));
    sessionStorage.removeItem(name);
    note.remove();
    changed[0].focus();
  });
  note.append(clear);
  form.prepend(note);
}

function valueOf(field) {
  return field.type === "checkbox" ? field.checked : field.value;
}

function setValue(field, value) {
  if (field.type === "checkbox") field.checked = value;
  else field.value = value;
}

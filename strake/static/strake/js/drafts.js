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
  if (!form.querySelector("[aria-invalid=true]")) {
    const draft = JSON.parse(sessionStorage.getItem(name) ?? "{}");
    for (const field of fields) field.value ||= draft[field.name] ?? "";
  }
  form.addEventListener("input", () => {
    sessionStorage.setItem(name, JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, field.value]))));
  });
}

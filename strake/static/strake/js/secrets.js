import { onEnhance } from "./enhance.js";

onEnhance((root) => {
  for (const input of root.querySelectorAll("input[data-secret]")) validateSecret(input);
});

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
    if (/\s/.test(key)) notes.textContent = "There's a space in the key. Check that you copied only the key.";
    else if (/[^\x21-\x7e]/.test(key)) notes.textContent = "The key contains a character that keys don't have.";
    else if (key.startsWith("strk_")) notes.textContent = "This is a Strake token. Paste the provider's key.";
    else if (prefix && wanted.length > 2 && !key.startsWith(wanted) && !wanted.startsWith(prefix))
      notes.textContent = `Keys of this provider usually look like ${input.placeholder} Is this the key of another provider?`;
    else notes.textContent = "";
  });
}

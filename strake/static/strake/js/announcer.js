/** Tell screen readers what has happened. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

const YEAR = 365 * 24 * 3600;

/** Keep a value in a cookie for a year, or delete the cookie if the value is "". */
export function keep(name, value) {
  const secure = name.startsWith("__Host-") ? "; secure" : "";
  document.cookie = `${name}=${value}; path=/; max-age=${value ? YEAR : 0}; samesite=lax${secure}`;
}

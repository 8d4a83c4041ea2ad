// Light and dark: the system's choice unless a person made another one.

const STORED = "elephantasm.theme";
const THEMES = ["system", "light", "dark"];

export const theme = () => localStorage.getItem(STORED) ?? "system";

/** @param {string} name */
function setTheme(name) {
  if (name === "system") localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, name);
  applyTheme();
}

export function applyTheme() {
  document.documentElement.dataset.theme = theme();
}

/** Chooses the next theme and returns its name. */
export function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  setTheme(next);
  return next;
}

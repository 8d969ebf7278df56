// Runs before the first paint, so that a chosen theme and language do not flash in late. A classic script: modules wait.
(() => {
  try {
    const theme = localStorage.getItem("lichtspiel.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    const language = localStorage.getItem("lichtspiel.language") || navigator.language || "en";
    document.documentElement.lang = ["de", "zh"].find((known) => language.startsWith(known)) || "en";
  } catch {
    // Storage may be forbidden; then the system's choice holds.
  }
})();

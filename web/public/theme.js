// Runs before the first paint, so that a stored dark theme never flashes white.
(() => {
  const stored = localStorage.getItem("fathom.theme");
  const dark = stored === "dark" || (stored !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();

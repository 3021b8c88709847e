// Applies the chosen theme before the first paint: modules run too late for that.
try {
  const { theme } = JSON.parse(localStorage.getItem("ggserve.settings")) ?? {};
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // no storage, no theme: the system's is used
}

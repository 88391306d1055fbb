/* What the reader chooses: recipes, metrics, images, layers of boxes. */
const report = JSON.parse(document.getElementById("report").textContent);
const state = { recipes: report.recipes.map(() => true), metric: "AP", term: "loss", iou: "0.50", image: 0 };
const { draw } = charts(report, state);
document.documentElement.classList.remove("no-script");

function showRecipes() {
  for (const part of all("main [data-recipe]")) part.classList.toggle("off", !state.recipes[+part.dataset.recipe]);
  for (const row of all("[data-pair]")) row.classList.toggle("off", row.dataset.pair.split(" ").some((i) => !state.recipes[+i]));
  for (const box of all(".legend input")) box.checked = state.recipes[+box.dataset.recipe];
  draw();
}

function choose(id, key, chart) {
  const select = document.getElementById(id);
  if (select) select.addEventListener("change", () => ((state[key] = select.value), draw(chart)));
}

function nameTerms() {
  const select = one("#loss-term"), terms = new Set(["loss"]);
  for (const recipe of report.recipes) for (const curve of recipe.curves) for (const point of curve) Object.keys(point.losses).forEach((term) => terms.add(term));
  for (const term of [...terms, "learning rate"]) select.add(new Option(term));
}

function walkImages() {
  const box = one(".cases"), cases = all(".case");
  if (!box) return;
  box.classList.add("walked");
  const thumbs = cases.map((entry, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.style.backgroundImage = `var(--image-${index})`;
    button.setAttribute("aria-label", one("h3", entry).firstChild.textContent.trim());
    button.addEventListener("click", () => show(index));
    one(".thumbs").append(button);
    return button;
  });
  function show(index) {
    state.image = (index + cases.length) % cases.length;
    cases.forEach((entry, i) => entry.classList.toggle("shown", i === state.image));
    thumbs.forEach((button, i) => button.setAttribute("aria-pressed", i === state.image));
  }
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || /INPUT|SELECT/.test(event.target.tagName)) return;
    if (event.target.closest(".scroll, pre")) return;
    if (event.key === "ArrowRight") show(state.image + 1);
    if (event.key === "ArrowLeft") show(state.image - 1);
  });
  for (const layer of all("[data-layer]"))
    layer.addEventListener("change", () => box.classList.toggle("hide-" + layer.dataset.layer, !layer.checked));
  show(0);
}

all("table.sortable").forEach(sortable);
for (const box of all(".legend input"))
  box.addEventListener("change", () => ((state.recipes[+box.dataset.recipe] = box.checked), showRecipes()));
one("#reset").addEventListener("click", () => (state.recipes.fill(true), showRecipes()));
nameTerms();
choose("learning-metric", "metric", "learning");
choose("loss-term", "term", "loss");
choose("precision-iou", "iou", "precision");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
walkImages();
showRecipes();

/* What the reader of an inspection chooses, and the numbers for it. */
const report = JSON.parse(document.getElementById("report").textContent);
const bins = report.bins.length, levels = report.recipe.strides.length;
const state = {
  assigner: 0,
  steps: report.assigners.map((assigner) => assigner.usual),
  filters: report.axes.map(() => -1),
  image: 0,
  object: 0,
  heat: null, // which map lies over the picture: { key, level }
  ownClass: false,
  suspect: null, // the box to look at again that is shown
};
document.documentElement.classList.remove("no-script");

// Numbers, written as the page was: see `tables.py`.
const formats = {
  count: (value) => value.toLocaleString("en-US"),
  mean: (value) => value.toFixed(2),
  share: (value) => (100 * value).toFixed(1) + " %",
};

function describe(counts) {
  const objects = sum(counts.slice(0, bins)), positives = sum(counts.slice(bins, bins + levels));
  const [wanted, lost] = counts.slice(bins + levels);
  const found = {
    objects, positives, wanted, lost, unmatched: counts[0],
    unmatched_share: objects ? counts[0] / objects : null,
    positives_per_object: objects ? positives / objects : null,
    lost_share: wanted ? lost / wanted : null,
  };
  for (let i = 0; i < bins; i++) found["bin" + i] = objects ? counts[i] / objects : null;
  for (let i = 0; i < levels; i++) found["level" + i] = positives ? counts[bins + i] / positives : null;
  return found;
}

function describePriors(priors) {
  const [positive, ignored, background] = [0, 1, 2].map((i) => priors.reduce((sum, level) => sum + level[i], 0));
  return {
    ignored_share: ignored / Math.max(positive + ignored + background, 1),
    negatives_per_positive: positive ? background / positive : null,
  };
}

/* Sum the cells that pass the filters; on `axis`, those of `group` whatever the axis' own filter says. */
function total(step, axis = -1, group = -1) {
  const found = new Array(bins + levels + 2).fill(0);
  report.cells.forEach((cell, row) => {
    const wanted = (value, a) => (a === axis ? value === group : state.filters[a] < 0 || value === state.filters[a]);
    if (cell.every(wanted)) step.counts[row].forEach((count, column) => (found[column] += count));
  });
  return found;
}

function fill(row, numbers) {
  for (const cell of all("[data-k]", row)) {
    const value = numbers[cell.dataset.k];
    cell.textContent = value == null ? "–" : formats[cell.dataset.f](value);
    cell.dataset.v = value == null ? "" : value;
    if (cell.classList.contains("bar")) cell.style.setProperty("--share", 100 * (value || 0) + "%");
    if (cell.classList.contains("heat")) cell.style.setProperty("--heat", value || 0);
  }
  row.classList.toggle("empty", numbers.objects === 0);
}

function update() {
  const assigner = report.assigners[state.assigner], step = assigner.steps[state.steps[state.assigner]];
  const numbers = { ...describe(total(step)), ...describePriors(step.priors) };
  fill(one(".cards"), numbers);
  one(".cards .unmatched").classList.toggle("bad", numbers.unmatched > 0);
  all("table.assigners tbody tr").forEach((row) => {
    const number = +row.dataset.assigner, shown = report.assigners[number].steps[state.steps[number]];
    fill(row, { ...describe(total(shown)), ...describePriors(shown.priors), setting: shown.value });
    row.classList.toggle("chosen", number === state.assigner);
  });
  all("table.steps").forEach((table) => (table.parentElement.hidden = +table.dataset.assigner !== state.assigner));
  all(`table.steps[data-assigner="${state.assigner}"] tbody tr`).forEach((row) => {
    const shown = assigner.steps[+row.dataset.step];
    fill(row, { ...describe(total(shown)), ...describePriors(shown.priors) });
    row.classList.toggle("chosen", +row.dataset.step === state.steps[state.assigner]);
  });
  all("tr[data-axis]").forEach((row) => {
    const axis = +row.dataset.axis, group = +row.dataset.group;
    fill(row, describe(total(step, axis, group)));
    row.classList.toggle("chosen", state.filters[axis] === group);
  });
  updateControls(assigner);
  showChart();
  showImage();
}

function updateControls(assigner) {
  one("#assigner").value = state.assigner;
  const slider = one("#step"), several = assigner.steps.length > 1;
  slider.max = assigner.steps.length - 1;
  slider.value = state.steps[state.assigner];
  slider.disabled = !several;
  const value = assigner.steps[state.steps[state.assigner]].value;
  const text = several ? `${assigner.setting} = ${value}` : "nothing to change";
  one("#step-value").textContent = text;
  slider.setAttribute("aria-valuetext", text);
  report.axes.forEach((axis, i) => (one("#filter-" + axis.key).value = state.filters[i]));
}

function clickable(row, act) {
  const head = one("th", row), button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => (act(), update()));
}

function wire() {
  all("table.sortable").forEach(sortable);
  all("table.assigners tbody tr").forEach((row) => clickable(row, () => (state.assigner = +row.dataset.assigner)));
  all("table.steps tbody tr").forEach((row) =>
    clickable(row, () => (state.steps[state.assigner] = +row.dataset.step)));
  all("tr[data-axis]").forEach((row) => clickable(row, () => {
    const axis = +row.dataset.axis, group = +row.dataset.group;
    state.filters[axis] = state.filters[axis] === group ? -1 : group;
  }));
  one("#assigner").addEventListener("change", (event) => ((state.assigner = +event.target.value), update()));
  one("#step").addEventListener("input", (event) => ((state.steps[state.assigner] = +event.target.value), update()));
  report.axes.forEach((axis, i) =>
    one("#filter-" + axis.key).addEventListener("change", (event) => ((state.filters[i] = +event.target.value), update())));
  one("#reset").addEventListener("click", () => {
    state.filters.fill(-1);
    state.steps = report.assigners.map((assigner) => assigner.usual);
    update();
  });
}

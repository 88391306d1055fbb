// Boxes to look at again: annotated ones that something speaks against, then detections that nobody has annotated.
const lists = report.relabel ?? { columns: [], annotated: { rows: [], drawn: [] }, unlabelled: { rows: [], drawn: [] } };
const listed = [lists.annotated, lists.unlabelled].flatMap(({ rows, drawn }) =>
  rows.map((values, place) => ({ values, rank: place + 1, entry: drawn[place], ...named(values) })));
const MISSING = "not annotated";
const TWO = 0.05; // how far a second peak rises above the valley, to be called one

function named(values) {
  const found = Object.fromEntries(lists.columns.map((name, i) => [name, values[i]]));
  return { ...found, why: found.reasons.split(", ") };
}

function wanted(box) {
  const kind = one("#only-class").value, reason = one("#only-reason").value;
  const fits = reason ? box.why.includes(reason) : box.reasons !== MISSING;
  return fits && (!kind || box.class === kind);
}

const boxRows = () => all("table.relabel tbody tr");
const kept = () => boxRows().filter((row) => !row.hidden).map((row) => +row.dataset.object);

function showList() {
  for (const row of boxRows()) row.hidden = !wanted(listed[+row.dataset.object]);
  const rows = kept();
  one("#relabel-count").textContent = `${rows.length} listed`;
  if (rows.length && !rows.includes(state.suspect)) choose(rows[0]);
}

// What speaks against a box, in words.
const sentences = {
  "double box": (box) => `Overlaps another ${box.class} with an IoU of ${box.double_iou.toFixed(2)}.`,
  "other class": (box) => `${box.other_class} scores ${box.other_score.toFixed(2)} there, ${box.class} ${box.score.toFixed(2)}.`,
  "not seen": (box) => `No prediction that fits scores more than ${box.score.toFixed(2)}.`,
  "drawn elsewhere": (box) => `Its ${box.offset_side} side is ${formats.share(box.offset)} of its length away from the predicted one.`,
  "two peaks": (box) => `The network sees its ${box.peaks_side} side at ${box.first_peak.toFixed(0)} or at ${box.second_peak.toFixed(0)}.`,
  flat: (box) => `The network spreads its ${box.spread_side} side over ${formats.share(box.spread)} of its length.`,
  [MISSING]: (box) => `Seen with a score of ${box.score.toFixed(2)}; no annotated box overlaps it by more than ${box.iou.toFixed(2)}.`,
  "": () => "Nothing speaks against it.",
};
const LEGEND = "White: the annotation. Blue: others beside it. Dashed: the prediction. Orange: where the network sees each side, " +
  "with its highest and second peak.";
const MISSING_LEGEND = "Dashed: the prediction. Blue: what is annotated beside it.";

function choose(number) {
  state.suspect = number;
  for (const row of boxRows()) row.classList.toggle("chosen", +row.dataset.object === number);
  const box = listed[number], stage = one(".closeup"), missing = box.reasons === MISSING;
  const where = [box.x1, box.y1, box.x2, box.y2].map((edge) => edge.toFixed(0)).join(", ");
  const legend = box.entry ? (missing ? MISSING_LEGEND : LEGEND) : "It is not among those that are drawn.";
  one(".suspects figcaption").textContent = [
    `${box.rank}: ${box.image}, ${box.class} at ${where}.`, ...box.why.map((reason) => sentences[reason](box)), legend,
  ].join(" ");
  stage.replaceChildren();
  if (!box.entry) return;
  const picture = new Image();
  picture.src = box.entry.picture;
  picture.alt = `${box.class} in ${box.image}`;
  stage.style.setProperty("--ratio", box.entry.width / box.entry.height);
  stage.append(picture, closeup(box.entry, missing));
}

function closeup(entry, missing) {
  const label = missing ? "the prediction, and annotations beside it" : "annotation, prediction and the distribution of each side";
  const svg = draw("svg", { viewBox: `0 0 ${entry.width} ${entry.height}`, role: "img", "aria-label": label });
  for (const other of entry.others) svg.append(rect(...other, "other"));
  if (missing) {
    svg.append(rect(...entry.box, "predicted"));
    return svg;
  }
  svg.append(...distributions(entry), rect(...entry.predicted, "predicted"), rect(...entry.box, "annotated"));
  return svg;
}

function distributions(entry) {
  const [x1, y1, x2, y2] = entry.box, middle = [(x1 + x2) / 2, (y1 + y2) / 2], shapes = [];
  const height = 0.45 * Math.min(x2 - x1, y2 - y1), widest = entry.spread.indexOf(Math.max(...entry.spread));
  const most = Math.max(...entry.probability.flat());
  entry.place.forEach((places, side) => {
    const across = side % 2, name = side === widest ? "side widest" : "side";
    // the curve stands on a line through the middle of the box, across the side
    const at = (place, rise) => (across ? `${middle[0] + rise},${place}` : `${place},${middle[1] - rise}`);
    const points = places.map((place, i) => at(place, (height * entry.probability[side][i]) / most));
    const ends = [at(places[0], 0), ...points, at(places.at(-1), 0)];
    shapes.push(draw("polygon", { points: ends.join(" "), class: name }));
    entry.peaks.forEach((peak, number) => {
      if (number && entry.prominence[side] < TWO) return;
      const place = peak[side], line = across ? { x1, x2, y1: place, y2: place } : { x1: place, x2: place, y1, y2 };
      shapes.push(draw("line", { ...line, class: `peak ${name}${number ? " second" : ""}` }));
    });
  });
  return shapes;
}

function save(name, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function wireRelabel() {
  if (!listed.length) return;
  for (const row of boxRows()) clickable(row, () => choose(+row.dataset.object));
  for (const filter of all("#only-class, #only-reason")) filter.addEventListener("change", showList);
  const names = ["rank", ...lists.columns], saved = () => kept().map((number) => [listed[number].rank, ...listed[number].values]);
  const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value ?? "");
  one("#save-csv").addEventListener("click", () =>
    save("relabel.csv", "text/csv", [names, ...saved()].map((values) => values.map(cell).join(",") + "\n").join("")));
  one("#save-json").addEventListener("click", () => {
    const entries = saved().map((values) => Object.fromEntries(values.map((value, i) => [names[i], value])));
    save("relabel.json", "application/json", JSON.stringify(entries, null, 1));
  });
  document.addEventListener("keydown", (event) => {
    const step = { j: 1, k: -1 }[event.key], rows = kept();
    if (!step || !rows.length || event.target.matches("input, select") || event.ctrlKey || event.metaKey) return;
    const at = rows.indexOf(state.suspect);
    choose(rows[Math.min(Math.max(at + step, 0), rows.length - 1)]);
  });
  showList();
}

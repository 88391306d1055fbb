  // The list of ambiguous boxes, and the box chosen with the distributions of its sides.
  const listed = report.ambiguous?.rows ?? [], drawn = report.ambiguous?.drawn ?? {};
  const column = Object.fromEntries((report.ambiguous?.columns ?? []).map((name, i) => [name, i]));
  const TWO = 0.05; // how far a second peak rises above the valley, to be called one

  function wanted(values) {
    const kind = one("#only-class").value, side = one("#only-side").value;
    return (!kind || values[column.class] === kind) && (!side || values[column.side] === side) &&
      (!one("#only-two").checked || values[column.prominence] >= TWO);
  }

  const ambiguousRows = () => all("table.ambiguous tbody tr");

  function showList() {
    let count = 0;
    for (const row of ambiguousRows()) {
      row.hidden = !wanted(listed[+row.dataset.object]);
      count += !row.hidden;
    }
    one("#ambiguous-count").textContent = `${count} listed`;
  }

  function choose(number) {
    state.suspect = number;
    for (const row of ambiguousRows()) row.classList.toggle("chosen", +row.dataset.object === number);
    const values = listed[number], entry = drawn[number], stage = one(".closeup");
    const [side, share, score, iou] = ["side", "ambiguity", "score", "iou"].map((name) => values[column[name]]);
    const where = values.slice(2, 6).map((edge) => edge.toFixed(0)).join(", ");
    one(".suspects figcaption").textContent =
      `${number + 1}: ${values[0]}, ${values[1]} at ${where}. Its ${side} side spreads over ${formats.share(share)} of its size; ` +
      `score ${score.toFixed(2)}, IoU of prediction and annotation ${iou.toFixed(2)}. ` +
      (entry ? "White: the annotation. Dashed: the prediction. Orange: where the network sees each side, with its highest and second peak." : "It is not among those that are drawn.");
    stage.replaceChildren();
    if (!entry) return;
    const picture = new Image();
    picture.src = entry.picture;
    picture.alt = `${values[1]} in ${values[0]}`;
    stage.style.setProperty("--ratio", entry.width / entry.height);
    stage.append(picture, closeup(entry));
  }

  function closeup(entry) {
    const [x1, y1, x2, y2] = entry.box, middle = [(x1 + x2) / 2, (y1 + y2) / 2];
    const svg = draw("svg", { viewBox: `0 0 ${entry.width} ${entry.height}`, role: "img", "aria-label": "annotation, prediction and the distribution of each side" });
    const height = 0.45 * Math.min(x2 - x1, y2 - y1), widest = entry.share.indexOf(Math.max(...entry.share));
    entry.place.forEach((places, side) => {
      const across = side % 2, name = side === widest ? "side widest" : "side";
      const most = Math.max(...entry.probability.flat());
      // the curve stands on a line through the middle of the box, across the side
      const at = (place, rise) => (across ? `${middle[0] + rise},${place}` : `${place},${middle[1] - rise}`);
      const points = places.map((place, i) => at(place, (height * entry.probability[side][i]) / most));
      const ends = [at(places[0], 0), ...points, at(places.at(-1), 0)];
      svg.append(draw("polygon", { points: ends.join(" "), class: name }));
      entry.peaks.forEach((peak, number) => {
        if (number && entry.prominence[side] < TWO) return;
        const place = peak[side], line = across ? { x1, x2, y1: place, y2: place } : { x1: place, x2: place, y1, y2 };
        svg.append(draw("line", { ...line, class: `peak ${name}${number ? " second" : ""}` }));
      });
    });
    svg.append(rect(...entry.predicted, "predicted"), rect(...entry.box, "annotated"));
    return svg;
  }

  function save(name, kind, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function kept() {
    return ambiguousRows().filter((row) => !row.hidden).map((row) => +row.dataset.object);
  }

  function wireAmbiguous() {
    if (!listed.length) return;
    for (const row of ambiguousRows()) clickable(row, () => choose(+row.dataset.object));
    for (const filter of all("#only-class, #only-side, #only-two")) filter.addEventListener("change", showList);
    const names = ["rank", ...report.ambiguous.columns];
    const cell = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
    one("#save-csv").addEventListener("click", () => {
      const lines = kept().map((number) => [number + 1, ...listed[number]].map(cell).join(","));
      save("ambiguous.csv", "text/csv", [names.join(","), ...lines, ""].join("\n"));
    });
    one("#save-json").addEventListener("click", () => {
      const entries = kept().map((number) => Object.fromEntries([number + 1, ...listed[number]].map((value, i) => [names[i], value])));
      save("ambiguous.json", "application/json", JSON.stringify(entries, null, 1));
    });
    document.addEventListener("keydown", (event) => {
      const step = { j: 1, k: -1 }[event.key], rows = kept();
      if (!step || !rows.length || event.target.matches("input, select") || event.ctrlKey || event.metaKey) return;
      const at = rows.indexOf(state.suspect);
      choose(rows[Math.min(Math.max(at + step, 0), rows.length - 1)]);
    });
    showList();
    choose(0);
  }

// How two numbers change with the setting of the assigner chosen; the table below holds them all.
const CHARTS = [["unmatched_share", "objects without positives", "share", "bad"], ["positives_per_object", "positives per object", "mean", "good"]];

function showChart() {
  const box = one(".charts"), assigner = report.assigners[state.assigner];
  box.replaceChildren();
  box.hidden = assigner.steps.length < 2;
  if (box.hidden) return;
  for (const [key, title, form, name] of CHARTS) {
    const values = assigner.steps.map((step) => describe(total(step))[key] ?? 0);
    const chart = add(box, "figure"), caption = add(chart, "figcaption", `${title} by ${assigner.setting}`);
    caption.className = "soft";
    chart.append(line(values, assigner, form, name));
  }
}

function line(values, assigner, form, name) {
  const [width, height, left, top] = [520, 150, 28, 22], most = Math.max(...values) || 1;
  const x = (i) => left + (i * (width - 2 * left)) / (values.length - 1), y = (value) => height - 24 - (value / most) * (height - 24 - top);
  const label = assigner.steps.map((step, i) => `${step.value}: ${formats[form](values[i])}`).join(", ");
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: name });
  svg.append(draw("polyline", { points: values.map((value, i) => `${x(i)},${y(value)}`).join(" "), class: "curve" }));
  values.forEach((value, i) => {
    const chosen = i === state.steps[state.assigner], put = (text, place, kind) => (text.textContent = place, text.setAttribute("class", kind), svg.append(text));
    const point = draw("circle", { cx: x(i), cy: y(value), r: chosen ? 6 : 4, class: chosen ? "point chosen" : "point" });
    point.addEventListener("click", () => ((state.steps[state.assigner] = i), update()));
    svg.append(point);
    put(draw("text", { x: x(i), y: height - 6 }), assigner.steps[i].value, "tick");
    put(draw("text", { x: x(i), y: y(value) - 10 }), formats[form](value), chosen ? "value chosen" : "value");
  });
  return svg;
}

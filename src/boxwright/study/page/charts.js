/* The charts of a report, drawn by plotly in the colours of the page. */
const charts = (report, state) => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const shown = () => report.recipes.map((recipe, index) => ({ ...recipe, index })).filter(({ index }) => state.recipes[index]);
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const tint = (hex, opacity) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",")},${opacity})`;
  const narrow = () => window.innerWidth < 760;

  function draw(name, traces, layout = {}) {
    const place = document.getElementById("chart-" + name);
    if (!place) return;
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true };
    Plotly.react(place, traces, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false,
      font: { family: "system-ui, sans-serif", size: 12, color: colour("--ink") },
      margin: { l: 44, r: 14, t: 8, b: 40 }, hoverlabel: { font: { family: "system-ui, sans-serif" } },
      ...layout,
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
    }, { displayModeBar: false, responsive: true });
  }

  /* Mean over seeds of a value by epoch, and the band that the seeds span. */
  function band(recipe, value) {
    const byEpoch = new Map();
    for (const curve of recipe.curves) {
      for (const point of curve) {
        const found = value(point);
        if (found != null) byEpoch.set(point.epoch, [...(byEpoch.get(point.epoch) || []), found]);
      }
    }
    const epochs = [...byEpoch.keys()].sort((a, b) => a - b), values = epochs.map((epoch) => byEpoch.get(epoch));
    const own = report.colours[recipe.index], several = recipe.curves.length > 1;
    const edges = [...values.map((v) => Math.max(...v)), ...values.map((v) => Math.min(...v)).reverse()];
    const area = { x: [...epochs, ...[...epochs].reverse()], y: edges, fill: "toself", fillcolor: tint(own, 0.16), line: { width: 0 }, mode: "lines", hoverinfo: "skip" };
    const line = { x: epochs, y: values.map(mean), name: recipe.name, mode: epochs.length > 1 ? "lines" : "markers", line: { color: own, width: 2.2 }, marker: { color: own } };
    return several ? [area, line] : [line];
  }

  const all = {
    seeds() {
      const recipes = shown().reverse();
      draw("seeds", recipes.map((recipe) => {
        const values = recipe.metrics.AP.values, own = report.colours[recipe.index];
        return { x: [...values, recipe.metrics.AP.mean], y: values.map(() => recipe.name).concat(recipe.name), name: recipe.name, mode: "markers",
          marker: { color: [...values.map(() => tint(own, 0.45)), own], size: [...values.map(() => 11), 20], symbol: [...values.map(() => "circle"), "line-ns"], line: { width: [...values.map(() => 0), 3], color: own } } };
      }), { xaxis: { title: { text: "AP" } }, yaxis: { gridcolor: "rgba(0,0,0,0)", ticksuffix: "  " } });
    },
    pairs() {
      const pairs = report.pairs.filter((pair) => state.recipes[pair.first] && state.recipes[pair.second])
        .map((pair) => (pair.difference >= 0 ? pair : { ...pair, first: pair.second, second: pair.first, difference: -pair.difference,
          interval: pair.interval && [-pair.interval[1], -pair.interval[0]], image_interval: [-pair.image_interval[1], -pair.image_interval[0]] }))
        .sort((a, b) => a.difference - b.difference);
      const label = (pair) => [pair.first, pair.second].map((i) => report.recipes[i].name).join(narrow() ? " −<br>" : " − ");
      const line = (key, width) => pairs.filter((pair) => pair[key]).map((pair) => ({ x: pair[key], y: [label(pair), label(pair)], mode: "lines", hoverinfo: "x",
        line: { width, color: pair.significant ? colour("--good") : colour("--soft") } }));
      const points = { x: pairs.map((pair) => pair.difference), y: pairs.map(label), mode: "markers", hoverinfo: "x+y",
        marker: { size: 11, color: pairs.map((pair) => (pair.significant ? colour("--good") : colour("--soft"))) } };
      draw("pairs", [...line("interval", 3), ...line("image_interval", 7).map((trace) => ({ ...trace, opacity: 0.35 })), points],
        { xaxis: { title: { text: "AP difference" }, zeroline: true, zerolinewidth: 2, zerolinecolor: colour("--ink") }, yaxis: { gridcolor: "rgba(0,0,0,0)", ticksuffix: "  " } });
    },
    learning() {
      const metric = state.metric;
      draw("learning", shown().flatMap((recipe) => band(recipe, (point) => point[metric])),
        { xaxis: { title: { text: "epoch" }, rangemode: "tozero" }, yaxis: { title: { text: metric }, rangemode: "tozero" } });
    },
    loss() {
      const term = state.term;
      const value = (point) => (term === "learning rate" ? point.lr : point.losses[term]);
      draw("loss", shown().flatMap((recipe) => band(recipe, value)), { xaxis: { title: { text: "epoch" }, rangemode: "tozero" }, yaxis: { title: { text: term } } });
    },
    sizes() {
      const sizes = Object.keys(report.sizes).filter((size) => report.sizes[size]);
      draw("sizes", shown().map((recipe) => {
        const values = sizes.map((size) => recipe.metrics["AP_" + size]);
        return { type: "bar", x: sizes.map((size) => `${size}<br>${report.sizes[size].toLocaleString("en-US")} objects`), y: values.map((value) => value.mean), name: recipe.name,
          marker: { color: report.colours[recipe.index] }, error_y: { visible: recipe.curves.length > 1, array: values.map((value) => value.deviation || 0), thickness: 1.2, width: 3, color: colour("--soft") } };
      }), { barmode: "group", bargap: 0.3, xaxis: { gridcolor: "rgba(0,0,0,0)" }, yaxis: { title: { text: "AP" }, rangemode: "tozero" } });
    },
    classes() {
      const counts = report.classes.map((kind) => kind.train).filter(Boolean), ticks = [];
      for (let power = 1; power <= 2 * Math.max(...counts); power *= 10) ticks.push(power, 2 * power, 5 * power);
      draw("classes", shown().map((recipe) => {
        const known = report.classes.filter((kind) => recipe.classes[kind.name].mean != null && kind.train > 0);
        return { x: known.map((kind) => kind.train), y: known.map((kind) => recipe.classes[kind.name].mean), text: known.map((kind) => kind.name), name: recipe.name, mode: "markers",
          error_y: { visible: recipe.curves.length > 1, array: known.map((kind) => recipe.classes[kind.name].deviation || 0), thickness: 1.2, width: 0, color: report.colours[recipe.index] },
          marker: { color: report.colours[recipe.index], size: 10 }, hovertemplate: "%{text}: %{y:.3f}, %{x} objects<extra>%{fullData.name}</extra>" };
      }), { xaxis: { title: { text: "training objects" }, type: "log", tickvals: ticks, ticktext: ticks.map((tick) => tick.toLocaleString("en-US")) }, yaxis: { title: { text: "AP" }, rangemode: "tozero" } });
    },
    precision() {
      draw("precision", shown().filter((recipe) => recipe.precision[state.iou]).map((recipe) => ({ x: recipe.precision[state.iou].map((_, i) => i / 100), y: recipe.precision[state.iou],
        name: recipe.name, mode: "lines", line: { color: report.colours[recipe.index], width: 2.2 } })),
        { xaxis: { title: { text: "recall" }, range: [0, 1] }, yaxis: { title: { text: "precision" }, range: [0, 1.02] } });
    },
    calibration() {
      const diagonal = { x: [0, 1], y: [0, 1], mode: "lines", hoverinfo: "skip", line: { color: colour("--soft"), width: 1, dash: "dot" } };
      draw("calibration", [diagonal, ...shown().map((recipe) => {
        const { count, right, score } = recipe.calibration, used = count.map((_, i) => i).filter((i) => count[i] > 0);
        return { x: used.map((i) => score[i] / count[i]), y: used.map((i) => right[i] / count[i]), text: used.map((i) => count[i]), name: recipe.name, mode: "lines+markers",
          line: { color: report.colours[recipe.index], width: 2.2 }, marker: { size: 7 }, hovertemplate: "score %{x:.2f}, right %{y:.2f}, %{text} detections<extra>%{fullData.name}</extra>" };
      })], { xaxis: { title: { text: "score" }, range: [0, 1] }, yaxis: { title: { text: "share that is right" }, range: [0, 1.02] } });
    },
    errors() {
      const kinds = [...report.kinds].reverse();
      draw("errors", shown().reverse().map((recipe) => ({ type: "bar", orientation: "h", y: kinds, x: kinds.map((kind) => recipe.errors.cost[kind].mean), name: recipe.name,
        marker: { color: report.colours[recipe.index] }, error_x: { visible: recipe.curves.length > 1, array: kinds.map((kind) => recipe.errors.cost[kind].deviation || 0), thickness: 1.2, width: 3, color: colour("--soft") } })),
        { barmode: "group", bargap: 0.25, xaxis: { title: { text: "AP50 lost" } }, yaxis: { gridcolor: "rgba(0,0,0,0)", ticksuffix: "  " } });
    },
  };
  return { all, draw: (...names) => (names.length ? names : Object.keys(all)).forEach((name) => all[name]()) };
};

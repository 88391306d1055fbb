// Heat maps: bytes over the cells of every level, see `heat_maps.py`.
const RAMP = [[0, 0, 4], [40, 11, 84], [101, 21, 110], [159, 42, 99], [212, 72, 66], [245, 125, 21], [250, 193, 39], [252, 255, 164]];

function bytes(map) {
  map.bytes ??= Uint8Array.from(atob(map.cells), (letter) => letter.charCodeAt(0));
  return map.bytes;
}

const valueOf = (map, byte) => map.most * (byte / 255) ** 2;

function colour(share) {
  const place = share * (RAMP.length - 1), low = Math.min(Math.floor(place), RAMP.length - 2), rest = place - low;
  return RAMP[low].map((side, i) => side + rest * (RAMP[low + 1][i] - side));
}

/* One level as { height, width, stride, offset, at(y, x) }; level -1 takes the highest of all on the finest grid. */
function layer(image, map, level) {
  const data = bytes(map);
  let start = 0;
  const layers = image.grids.map(([height, width, stride, offset]) => {
    const from = start;
    start += height * width;
    return { height, width, stride, offset, at: (y, x) => data[from + y * width + x] };
  });
  if (level >= 0) return layers[level];
  const fine = layers[0];
  const cell = (l, i, limit) => Math.min(Math.max(Math.round(((i + fine.offset) * fine.stride) / l.stride - l.offset), 0), limit - 1);
  return { ...fine, at: (y, x) => Math.max(...layers.map((l) => l.at(cell(l, y, l.height), cell(l, x, l.width)))) };
}

function paint(canvas, grid, solid) {
  canvas.width = grid.width;
  canvas.height = grid.height;
  const context = canvas.getContext("2d"), pixels = context.createImageData(grid.width, grid.height);
  for (let y = 0, i = 0; y < grid.height; y++) {
    for (let x = 0; x < grid.width; x++, i += 4) {
      const share = grid.at(y, x) / 255, [r, g, b] = colour(share);
      pixels.data.set([r, g, b, solid ? 255 : Math.round(255 * Math.min(0.88, 0.15 + share))], i);
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/* The maps of an image for the assigner chosen: a name and a map each. */
function heatRows(image) {
  const object = image.objects[state.object], own = state.ownClass && object;
  const scores = image.scores.map((maps, i) => ({
    key: "score" + i,
    title: `Score ${report.stages[i]}` + (own ? `, ${className(object)}` : ""),
    map: maps[own ? object.class : "any"],
  }));
  scores.reverse(); // before, then after
  const loss = image.assigners[state.assigner].loss;
  if (loss && loss.map.most > 0) scores.push({ key: "loss", title: "Loss of each prior", map: loss.map });
  return scores;
}

const levelName = (image, level) => (level < 0 ? "all levels" : `stride ${image.grids[level][2]}`);

function showHeats(image) {
  const box = one(".heats"), rows = heatRows(image);
  box.replaceChildren();
  if (!rows.length) return;
  const head = document.createElement("div"), label = document.createElement("label"), check = document.createElement("input");
  head.className = "heat-head";
  check.type = "checkbox";
  check.id = "own-class";
  check.checked = state.ownClass;
  check.addEventListener("change", () => ((state.ownClass = check.checked), showImage(), one("#own-class").focus()));
  label.append(check, " scores of the chosen object’s class only");
  label.className = "check";
  head.append(label);
  box.append(head);
  for (const row of rows) {
    const strip = document.createElement("div"), title = document.createElement("h3");
    strip.className = "heat-row";
    title.textContent = row.title;
    strip.append(title);
    for (let level = -1; level < image.grids.length; level++) strip.append(heatButton(image, row, level));
    box.append(strip);
  }
}

function heatButton(image, row, level) {
  const button = document.createElement("button"), text = document.createElement("span");
  const grid = layer(image, row.map, level);
  let most = 0;
  for (let y = 0; y < grid.height; y++) for (let x = 0; x < grid.width; x++) most = Math.max(most, grid.at(y, x));
  const shown = state.heat?.key === row.key && state.heat.level === level;
  button.type = "button";
  button.dataset.heat = row.key;
  button.dataset.level = level;
  button.setAttribute("aria-pressed", shown);
  text.textContent = `${levelName(image, level)}, to ${short(valueOf(row.map, most))}`;
  button.append(paint(document.createElement("canvas"), grid, true), text);
  button.addEventListener("click", () => {
    state.heat = shown ? null : { key: row.key, level };
    showImage();
    one(`[data-heat="${row.key}"][data-level="${level}"]`).focus();
  });
  return button;
}

/* Lay the map chosen over the picture; return what the caption says about it. */
function overlay(image, stage) {
  const row = state.heat && heatRows(image).find(({ key }) => key === state.heat.key);
  if (!row) return "";
  const grid = layer(image, row.map, state.heat.level), canvas = paint(document.createElement("canvas"), grid, false);
  const place = (cells, size) => [((grid.offset - 0.5) * grid.stride * 100) / size + "%", (cells * grid.stride * 100) / size + "%"];
  [canvas.style.left, canvas.style.width] = place(grid.width, image.width);
  [canvas.style.top, canvas.style.height] = place(grid.height, image.height);
  canvas.className = "overlay";
  stage.append(canvas);
  stage.onpointermove = (event) => {
    const frame = stage.getBoundingClientRect();
    const cell = (at, size, pixels) => Math.round((at / size) * pixels / grid.stride - grid.offset);
    const x = cell(event.clientX - frame.left, frame.width, image.width), y = cell(event.clientY - frame.top, frame.height, image.height);
    if (x < 0 || y < 0 || x >= grid.width || y >= grid.height) return;
    one(".readout").textContent = `cell (${x}, ${y}): ${short(valueOf(row.map, grid.at(y, x)))}`;
  };
  return ` Over it: ${row.title.toLowerCase()}, ${levelName(image, state.heat.level)}, dark is 0, yellow is ${short(row.map.most)}.`;
}

function nextHeat(image) {
  const keys = heatRows(image).map(({ key }) => key);
  const at = state.heat ? keys.indexOf(state.heat.key) : -1;
  state.heat = at + 1 < keys.length ? { key: keys[at + 1], level: -1 } : null;
}

// Anchors, and the images with their priors.
const COLOURS = ["#56b4e9", "#e69f00", "#2dd4a7", "#f472b6", "#f0e442", "#c4b5fd"];
const SVG = "http://www.w3.org/2000/svg";
const className = (object) => report.data.classes[object.class];
const short = (value) => String(+value.toPrecision(3));

function draw(kind, values) {
  const shape = document.createElementNS(SVG, kind);
  for (const [key, value] of Object.entries(values)) shape.setAttribute(key, value);
  return shape;
}

const rect = (x1, y1, x2, y2, name) =>
  draw("rect", { x: x1, y: y1, width: Math.max(x2 - x1, 0.5), height: Math.max(y2 - y1, 0.5), class: name });

function showAnchors() {
  const slider = one("#k");
  if (!slider) return;
  const steps = report.fit.anchors.steps, { shapes, mean_iou } = steps[+slider.value - 1];
  const reach = Math.max(...steps.flatMap((step) => step.shapes.flat()));
  const drawing = one(".anchors svg");
  drawing.setAttribute("viewBox", `${-reach / 2 - 1} ${-reach / 2 - 1} ${reach + 2} ${reach + 2}`);
  drawing.replaceChildren(...shapes.map(([w, h]) => rect(-w / 2, -h / 2, w / 2, h / 2, "")));
  const text = `${shapes.length} anchor${shapes.length > 1 ? "s" : ""}, mean best IoU ${mean_iou.toFixed(3)}`;
  one("#k-value").textContent = text;
  one("#shapes").textContent = shapes.map(([w, h]) => `${w}×${h}`).join(", ");
  slider.setAttribute("aria-valuetext", text);
  all("tr[data-anchors]").forEach((row) => row.classList.toggle("chosen", row.dataset.anchors === slider.value));
}

/* What the assigner chosen gives the objects of an image, at the setting chosen. */
const verdictsOf = (image) => image.assigners[state.assigner].steps[state.steps[state.assigner]];

/* The losses, which are known at the usual setting only. */
const lossOf = (image) =>
  state.steps[state.assigner] === report.assigners[state.assigner].usual ? image.assigners[state.assigner].loss : undefined;

const passes = (object) => object.groups.every((group, axis) => state.filters[axis] < 0 || state.filters[axis] === group);

const sum = (values) => values.reduce((a, b) => a + b, 0);

function showImage() {
  const image = report.images[state.image];
  if (!image) return;
  const verdicts = verdictsOf(image);
  state.object = Math.min(state.object, Math.max(image.objects.length - 1, 0));
  all(".thumbs button").forEach((button, i) => {
    button.setAttribute("aria-pressed", i === state.image);
    button.classList.toggle("faded", state.filters.some((group) => group >= 0) && !report.images[i].objects.some(passes));
  });
  const stage = one(".portraits .stage");
  stage.onpointermove = null;
  stage.replaceChildren();
  stage.style.setProperty("--ratio", image.width / image.height);
  stage.classList.toggle("blank", !image.picture);
  if (image.picture) {
    const picture = new Image();
    picture.src = image.picture;
    picture.alt = image.name;
    stage.append(picture);
  }
  const heat = overlay(image, stage);
  stage.append(drawing(image, verdicts));
  const lonely = verdicts.filter((verdict) => verdict.priors.length === 0).length;
  const passing = image.objects.filter(passes).length;
  const filtered = passing < image.objects.length ? ` ${passing} pass the filters.` : "";
  const caption = one(".portraits figcaption"), readout = document.createElement("span");
  readout.className = "readout";
  caption.textContent =
    `${image.name}: ${image.objects.length} objects, ${lonely} without positives.${filtered} Shown for: ${image.why}.` +
    (image.error ? ` No picture: ${image.error}` : "") + heat + " ";
  caption.append(readout);
  showObject(image, verdicts);
  showHeats(image);
}

function drawing(image, verdicts) {
  const picture = draw("svg", {
    viewBox: `0 0 ${image.width} ${image.height}`, role: "img",
    "aria-label": `${image.objects.length} objects and the priors of the chosen one`,
  });
  for (const region of image.crowd) picture.append(rect(...region, "crowd"));
  image.objects.forEach((object, i) => {
    const none = verdicts[i].priors.length === 0;
    const kind = [["none", none], ["chosen", i === state.object], ["faded", !passes(object)]];
    const shape = rect(...object.box, ["object", ...kind.filter(([, holds]) => holds).map(([name]) => name)].join(" "));
    shape.addEventListener("click", () => ((state.object = i), showImage()));
    picture.append(shape);
  });
  const priors = verdicts[state.object]?.priors ?? [], loss = lossOf(image)?.positives;
  const shares = priors.map(([prior]) => (loss ? sum(loss[prior]) : 1)), most = Math.max(...shares);
  const unit = Math.max(image.width, image.height) / 100;
  priors.forEach(([prior], i) => {
    const [level, x1, y1, x2, y2] = image.priors[prior], stroke = COLOURS[level % COLOURS.length];
    const shape = rect(x1, y1, x2, y2, "prior");
    shape.setAttribute("stroke", stroke);
    const size = loss ? 0.35 + 0.9 * Math.sqrt(shares[i] / most || 0) : 0.6;
    picture.append(shape, draw("circle", { cx: (x1 + x2) / 2, cy: (y1 + y2) / 2, r: size * unit, fill: stroke, class: "dot" }));
  });
  return picture;
}

/* The sentence of an object, filled with the numbers of a prior; as `Verdict.why` writes it. */
function reason(verdict, [prior, ...numbers]) {
  const note = verdict.notes?.[prior];
  return verdict.why.replace(/\{(\d)\}/g, (_, i) => String(numbers[i])) + (note ? `; ${note}` : "");
}

function add(parent, kind, text, name) {
  const child = document.createElement(kind);
  if (text) child.textContent = text;
  if (name) child.className = name;
  parent.append(child);
  return child;
}

function showObject(image, verdicts) {
  const panel = one(".verdict"), object = image.objects[state.object], verdict = verdicts[state.object];
  panel.replaceChildren();
  if (!object) return void add(panel, "h3", "No object in this image");
  const [x1, y1, x2, y2] = object.box, loss = lossOf(image);
  add(panel, "h3", `Object ${state.object + 1}: ${className(object)}, ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`);
  const count = verdict.priors.length;
  add(panel, "p", count ? `${count} positive${count > 1 ? "s" : ""}` : `No positives: ${verdict.why}.`, count ? "" : "verdict-none");
  if (loss) showLoss(panel, verdict, loss);
  else if (image.assigners[state.assigner].loss) add(panel, "p", "Losses are shown at the usual setting.", "soft");
  const list = add(panel, "ul");
  list.tabIndex = 0;
  list.setAttribute("aria-label", "Its priors");
  const cost = ([prior]) => (loss ? sum(loss.positives[prior]) : 0);
  const most = Math.max(...verdict.priors.map(cost));
  for (const match of [...verdict.priors].sort((a, b) => cost(b) - cost(a))) {
    const [level] = image.priors[match[0]], item = add(list, "li"), swatch = add(item, "span", "", "swatch");
    swatch.style.background = COLOURS[level % COLOURS.length];
    item.append(`stride ${report.recipe.strides[level]}: ${reason(verdict, match)}`);
    if (loss) {
      const bar = add(item, "span", `loss ${short(cost(match))}`, "loss-bar");
      bar.style.setProperty("--share", (100 * cost(match)) / most + "%");
    }
  }
}

/* Which part of the losses of the whole image is the object's, which the other objects', which the background's. */
function showLoss(panel, verdict, loss) {
  const columns = ["loss", "this object", "others", "background"], all_ = Object.values(loss.positives);
  const table = add(panel, "table", "", "loss-table"), head = add(add(table, "thead"), "tr"), body = add(table, "tbody");
  for (const title of columns) add(head, "th", title).scope = "col";
  loss.shared.forEach((term, i) => {
    const own = sum(verdict.priors.map(([prior]) => loss.positives[prior][i])), positives = sum(all_.map((shares) => shares[i]));
    const line = add(body, "tr");
    add(line, "th", term).scope = "row";
    for (const value of [own, positives - own, loss.background[i]]) add(line, "td", short(Math.max(value, 0)));
  });
  const whole = Object.keys(loss.terms).filter((term) => !loss.shared.includes(term));
  if (whole.length) add(panel, "p", `Not a sum over priors: ${whole.map((term) => `${term} ${short(loss.terms[term])}`).join(", ")}.`, "soft");
}

/* Choose the next object that passes the filters, or where none does the next of all. */
function nextObject(image, step) {
  const count = image.objects.length, any = image.objects.some(passes);
  do state.object = (state.object + step + count) % count;
  while (any && !passes(image.objects[state.object]));
}

function turn(key) {
  const count = report.images.length, image = report.images[state.image], objects = image?.objects.length ?? 0;
  const picture = { ArrowRight: 1, ArrowLeft: -1 }[key], object = { n: 1, p: -1 }[key], step = { "]": 1, "[": -1 }[key];
  const last = report.assigners[state.assigner].steps.length - 1;
  if (picture && count) [state.image, state.object] = [(state.image + picture + count) % count, 0];
  else if (object && objects) nextObject(image, object);
  else if (key === "h" && image) nextHeat(image);
  else if (step) state.steps[state.assigner] = Math.min(Math.max(state.steps[state.assigner] + step, 0), last);
  else if (key === "a") state.assigner = (state.assigner + 1) % report.assigners.length;
  else return;
  if (step || key === "a") update();
  else showImage();
}

function wireImages() {
  const thumbs = one(".thumbs");
  report.images.forEach((image, i) => {
    const button = add(thumbs, "button", image.picture ? "" : image.name);
    button.type = "button";
    button.setAttribute("aria-label", image.name);
    if (image.picture) button.style.backgroundImage = `url("${image.picture}")`;
    button.addEventListener("click", () => ((state.image = i), (state.object = 0), showImage()));
  });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
    turn(event.key);
  });
  one("#k")?.addEventListener("input", showAnchors);
  all("tr[data-anchors]").forEach((row) =>
    clickable(row, () => ((one("#k").value = row.dataset.anchors), showAnchors())));
}

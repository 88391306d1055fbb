  // The second half of the page's script: anchors and images.
  const COLOURS = ["#56b4e9", "#e69f00", "#2dd4a7", "#f472b6", "#f0e442", "#c4b5fd"];
  const SVG = "http://www.w3.org/2000/svg";

  function rect(x1, y1, x2, y2, name) {
    const shape = document.createElementNS(SVG, "rect");
    const set = { x: x1, y: y1, width: Math.max(x2 - x1, 0.5), height: Math.max(y2 - y1, 0.5), class: name };
    for (const [key, value] of Object.entries(set)) shape.setAttribute(key, value);
    return shape;
  }

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
    slider.setAttribute("aria-valuetext", text);
  }

  const className = (object) => report.data.classes[object.class];

  function showImage() {
    const image = report.images[state.image];
    if (!image) return;
    const verdicts = image.assigners[state.assigner];
    state.object = Math.min(state.object, Math.max(image.objects.length - 1, 0));
    all(".thumbs button").forEach((button, i) => button.setAttribute("aria-pressed", i === state.image));
    const stage = one(".stage"), drawing = document.createElementNS(SVG, "svg");
    drawing.setAttribute("viewBox", `0 0 ${image.width} ${image.height}`);
    drawing.setAttribute("role", "img");
    drawing.setAttribute("aria-label", `${image.objects.length} objects and the priors of the chosen one`);
    image.objects.forEach((object, i) => {
      const none = verdicts[i].priors.length === 0;
      const shape = rect(...object.box, "object" + (none ? " none" : "") + (i === state.object ? " chosen" : ""));
      shape.addEventListener("click", () => ((state.object = i), showImage()));
      drawing.append(shape);
    });
    for (const [level, x1, y1, x2, y2] of verdicts[state.object]?.priors ?? []) {
      const shape = rect(x1, y1, x2, y2, "prior");
      shape.setAttribute("stroke", COLOURS[level % COLOURS.length]);
      drawing.append(shape);
    }
    stage.replaceChildren(drawing);
    stage.style.setProperty("--ratio", image.width / image.height);
    stage.classList.toggle("blank", !image.picture);
    if (image.picture) {
      const picture = new Image();
      picture.src = image.picture;
      picture.alt = image.name;
      stage.prepend(picture);
    }
    const lonely = verdicts.filter((verdict) => verdict.priors.length === 0).length;
    one(".viewer figcaption").textContent =
      `${image.name}: ${image.objects.length} objects, ${lonely} without positives. Shown for: ${image.why}.` +
      (image.error ? ` No picture: ${image.error}` : "");
    showObject(image, verdicts);
  }

  function showObject(image, verdicts) {
    const panel = one(".verdict"), object = image.objects[state.object], verdict = verdicts[state.object];
    const title = document.createElement("h3");
    if (!object) {
      title.textContent = "No object in this image";
      panel.replaceChildren(title);
      return;
    }
    const [x1, y1, x2, y2] = object.box;
    title.textContent = `Object ${state.object + 1}: ${className(object)}, ${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`;
    const head = document.createElement("p");
    const list = document.createElement("ul");
    list.tabIndex = 0;
    list.setAttribute("aria-label", "Its priors");
    head.textContent = verdict.none ? `No positives: ${verdict.none}.` : `${verdict.priors.length} positives`;
    head.classList.toggle("verdict-none", Boolean(verdict.none));
    for (const [level, , , , , why] of verdict.priors) {
      const item = document.createElement("li"), swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = COLOURS[level % COLOURS.length];
      item.append(swatch, `stride ${report.recipe.strides[level]}: ${why}`);
      list.append(item);
    }
    panel.replaceChildren(title, head, list);
  }

  function wireImages() {
    const thumbs = one(".thumbs");
    report.images.forEach((image, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.setAttribute("aria-label", image.name);
      if (image.picture) button.style.backgroundImage = `url("${image.picture}")`;
      else button.textContent = image.name;
      button.addEventListener("click", () => ((state.image = i), (state.object = 0), showImage()));
      thumbs.append(button);
    });
    document.addEventListener("keydown", (event) => {
      if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) return;
      const count = report.images.length, objects = report.images[state.image]?.objects.length ?? 0;
      const turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key], next = { n: 1, p: -1 }[event.key];
      if (turn && count) [state.image, state.object] = [(state.image + turn + count) % count, 0];
      else if (next && objects) state.object = (state.object + next + objects) % objects;
      else return;
      showImage();
    });
    one("#k")?.addEventListener("input", showAnchors);
  }

  wire();
  wireImages();
  update();
  showAnchors();
})();


"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const pictures = page.pictures;
  const solvers = [...new Set(pictures.flatMap((each) => each.ways.map((way) => way.solver)))];
  const DASHES = ["", "7 3", "2 3", "9 3 2 3", "5 2", "12 4"];
  const state = { at: 0, hidden: new Set(), upto: Infinity };

  // ---- Elements. Text goes into text nodes alone: names of classes may be anything. ----

  function put(parent, name, attributes = {}, text = null) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return parent.appendChild(made);
  }

  function draw(parent, name, attributes = {}, text = null, title = null) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    if (title !== null) draw(made, "title", {}, title);
    return parent.appendChild(made);
  }

  const body = (id) => document.querySelector(`#${id} .body`);
  const told = (box, text) => put(box, "p", { class: "told" }, text);
  const style = (solver) => `c${solvers.indexOf(solver) % 8}`;
  const weight = (solver) => (4.5 - (3 * solvers.indexOf(solver)) / Math.max(1, solvers.length - 1)).toFixed(1);
  const dash = (solver) => DASHES[solvers.indexOf(solver) % DASHES.length];
  const named = (k) => (k === null ? "none" : page.classes[k] ?? String(k));
  const small = (x) => (x === null ? "–" : x === 0 ? "0" : Math.abs(x) < 1e-2 || Math.abs(x) >= 1e4
    ? x.toExponential(1).replace(".0e", "e") : String(Number(x.toPrecision(3))));
  const share = (x, digits = 1) => (x === null ? "–" : `${(100 * x).toFixed(digits)}%`);
  const count = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
  const shown = (picture) => picture.ways.filter((way) => !state.hidden.has(way.solver));
  const sentence = (status) => status.toLowerCase().replaceAll("_", " ");
  const ending = (way) => (way.succeeded ? (way.tolerance === null ? "reached t1" : "converged") : sentence(way.status));

  function table(parent, caption, heads, rows) {
    const scroll = put(parent, "div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption });
    const made = put(scroll, "table");
    put(made, "caption", {}, caption);
    const head = put(put(made, "thead"), "tr");
    for (const each of heads) put(head, "th", { scope: "col" }, each);
    const rest = put(made, "tbody");
    for (const row of rows) {
      const line = put(rest, "tr", row.class ? { class: row.class } : {});
      row.cells.forEach((cell, k) => {
        const made = put(line, k ? "td" : "th", k ? {} : { scope: "row" }, cell.text ?? (cell.bar === undefined ? cell : ""));
        if (cell.class) made.setAttribute("class", cell.class);
        if (cell.bar !== undefined) {
          made.setAttribute("class", "wide");
          put(made, "span", { class: "bar" }).style.width = `${100 * cell.bar}%`;
        }
      });
    }
  }

  function details(box, caption, heads, rows) {
    const made = put(box, "details");
    put(made, "summary", {}, "The figures as a table");
    table(made, caption, heads, rows);
  }

  // ---- Plots: a frame with axes, in which x and y place data. ----

  function ticks(low, high, log) {
    if (log) {
      const found = [], first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
      const step = Math.max(1, Math.ceil((last - first) / 7));
      for (let k = first; k <= last; k += step) found.push(10 ** k);
      if (last - first < 2) {
        const more = found.concat(10 ** (first - 1)).flatMap((v) => [2 * v, 5 * v]).filter((v) => v >= low && v <= high);
        return found.concat(more).sort((a, b) => a - b);
      }
      return found.length > 1 ? found : [low, high];
    }
    const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((k) => k * power).find((each) => each >= raw);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return found;
  }

  function power(value) {
    const k = Math.round(Math.log10(value));
    const raised = [...String(k)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
    return k >= 0 && k < 4 ? String(10 ** k) : `10${raised}`;
  }

  function frame(box, label, xs, ys, names) {
    const width = Math.max(260, Math.round(box.clientWidth || 420)), height = Math.round(Math.min(340, 0.8 * width));
    const left = 52, right = 12, top = 10, bottom = 42;
    const figure = put(box, "figure");
    const svg = draw(figure, "svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const clip = `clip-${box.parentNode.id}`;
    draw(draw(svg, "clipPath", { id: clip }), "rect",
      { x: left - 6, y: top - 6, width: width - left - right + 12, height: height - top - bottom + 12 });
    const scale = (axis, from, to) => {
      const f = axis.log ? Math.log10 : (v) => v;
      return (v) => from + ((f(v) - f(axis.low)) / (f(axis.high) - f(axis.low))) * (to - from);
    };
    const x = scale(xs, left, width - right), y = scale(ys, height - bottom, top);
    const text = (v, axis) => (axis.log && Math.abs(Math.log10(v) % 1) < 1e-9 ? power(v) : small(v));
    for (const v of ticks(xs.low, xs.high, xs.log)) {
      draw(svg, "line", { class: "grid", x1: x(v), x2: x(v), y1: top, y2: height - bottom });
      draw(svg, "text", { x: Math.min(x(v), width - 16), y: height - bottom + 16, "text-anchor": "middle" }, text(v, xs));
    }
    for (const v of ticks(ys.low, ys.high, ys.log)) {
      draw(svg, "line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) });
      draw(svg, "text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, text(v, ys));
    }
    draw(svg, "path", { class: "edge", d: `M${left} ${top}V${height - bottom}H${width - right}` });
    draw(svg, "text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, names[0]);
    draw(svg, "text", { x: 12, y: (top + height - bottom) / 2, "text-anchor": "middle",
      transform: `rotate(-90 12 ${(top + height - bottom) / 2})` }, names[1]);
    return { figure, svg, x, y, plot: draw(svg, "g", { "clip-path": `url(#${clip})` }), left, right: width - right };
  }

  function line(at, points, attributes) {
    const d = points.map(([x, y], k) => `${k ? "L" : "M"}${at.x(x).toFixed(1)} ${at.y(y).toFixed(1)}`).join("");
    draw(at.plot, "path", { d, ...attributes });
  }

  function dot(at, [x, y], radius, attributes, title) {
    draw(at.plot, "circle", { cx: at.x(x).toFixed(1), cy: at.y(y).toFixed(1), r: radius, ...attributes }, null, title);
  }

  function star(at, [x, y], title) {
    const cx = at.x(x), cy = at.y(y), d = [...Array(10).keys()].map((k) => {
      const r = k % 2 ? 4 : 9.5, a = (Math.PI * k) / 5 - Math.PI / 2;
      return `${k ? "L" : "M"}${(cx + r * Math.cos(a)).toFixed(1)} ${(cy + r * Math.sin(a)).toFixed(1)}`;
    });
    draw(at.plot, "path", { d: `${d.join("")}Z`, class: "root" }, null, title);
  }

  function span(values, margin = 0.08) {
    const low = Math.min(...values), high = Math.max(...values), pad = margin * (high - low || 1);
    return { low: low - pad, high: high + pad };
  }

  // ---- The cards ----

  const before = (way) => way.evals.map((e, k) => k).filter((k) => k === 0 || way.evals[k] <= state.upto);

  function paths(picture) {
    const box = body("paths"), ways = shown(picture);
    if (page.told.paths) return told(box, page.told.paths);
    const start = picture.ways[0].points[0], root = picture.equilibrium;
    const goal = root ? root.point : picture.ways[0].points.at(-1);
    const far = 1.6 * Math.hypot(start[0] - goal[0], start[1] - goal[1]);  // a wild state must not hide the others
    const near = picture.ways.flatMap((way) => way.points).filter((p) => Math.hypot(p[0] - goal[0], p[1] - goal[1]) <= far);
    near.push(start, goal);
    const best = root ? `an equilibrium of class ${named(root.prediction)}, residual ${small(root.residual)}` : "no equilibrium found";
    const at = frame(box, `States of ${count(ways.length, "solver")} in the plane of two principal components; ${best}.`,
      span(near.map((p) => p[0])), span(near.map((p) => p[1])), ["first principal component", "second principal component"]);
    if (picture.branch && !state.hidden.has("the branch")) line(at, picture.branch.points, { class: "track" });
    for (const way of ways) {
      const kept = before(way), points = kept.map((k) => way.points[k]);
      line(at, points, { class: `way ${style(way.solver)}`, "stroke-width": weight(way.solver), "stroke-dasharray": dash(way.solver) });
      for (const k of kept) dot(at, way.points[k], 3.5, { class: `mark ${style(way.solver)}` },
        `${way.solver}, ${count(way.evals[k], "evaluation")}, residual ${small(way.residuals[k])}`);
    }
    dot(at, start, 5.5, { class: "from" }, "start");
    if (root) star(at, root.point, `equilibrium, residual ${small(root.residual)}`);
    const wild = ways.filter((way) => way.points.some((p) => Math.hypot(p[0] - goal[0], p[1] - goal[1]) > far));
    const out = wild.length ? ` Out of the picture for a while: ${wild.map((way) => way.solver).join(", ")}.` : "";
    put(at.figure, "figcaption", { class: "caption" }, `Ring: the start. ${root ? `Star: the equilibrium, residual ${small(root.residual)}.`
      : page.told.residuals ? "" : "No solver found an equilibrium."}${picture.branch ? " Grey dashes: the branch." : ""}${out}`);
    details(box, `States in the plane, image ${state.at + 1}`, ["solver", "evaluations", "first", "second"],
      ways.flatMap((way) => way.points.map((p, k) => ({ cells: [way.solver, way.evals[k], small(p[0]), small(p[1])] }))));
  }

  function residuals(picture) {
    const box = body("residuals"), ways = shown(picture);
    if (page.told.residuals) return told(box, page.told.residuals);
    const known = (way) => before(way).filter((k) => way.residuals[k] !== null)
      .map((k) => [Math.max(1, way.evals[k]), Math.max(1e-16, way.residuals[k])]);
    const all = picture.ways.flatMap((way) => way.evals.map((e, k) => [Math.max(1, e), way.residuals[k]]))
      .filter((p) => p[1] !== null).map((p) => [p[0], Math.min(1e6, Math.max(1e-16, p[1]))]);
    const ends = ways.map((way) => `${way.solver} ${small(way.residual)} after ${way.evaluations}`).join(", ");
    const xs = { low: 1, high: 1.15 * Math.max(10, ...all.map((p) => p[0])), log: true };
    const ys = { low: 0.6 * Math.min(...all.map((p) => p[1])), high: 1.5 * Math.max(...all.map((p) => p[1])), log: true };
    const at = frame(box, `Relative residual by evaluations: ${ends}.`, xs, ys, ["evaluations of f (Jacobian products included)", "‖f(z) − z‖ / ‖f(z)‖"]);
    for (const value of new Set(ways.map((way) => way.tolerance).filter((each) => each > ys.low && each < ys.high))) {
      draw(at.svg, "line", { class: "tolerance", x1: at.left, x2: at.right, y1: at.y(value), y2: at.y(value) });
      draw(at.svg, "text", { x: at.left + 4, y: at.y(value) - 4 }, `tolerance ${small(value)}`);
    }
    for (const way of ways) {
      const points = known(way);
      line(at, points, { class: `way ${style(way.solver)}`, "stroke-width": weight(way.solver), "stroke-dasharray": dash(way.solver) });
      for (const p of points) dot(at, p, 3, { class: `mark ${style(way.solver)}` }, `${way.solver}: ${small(p[1])} after ${p[0]}`);
    }
    details(box, `Residuals, image ${state.at + 1}`, ["solver", "evaluations", "residual"],
      ways.flatMap((way) => way.residuals.map((r, k) => ({ cells: [way.solver, way.evals[k], small(r)] }))));
  }

  function found(picture) {
    const box = body("found");
    if (page.told.paths) return told(box, page.told.paths);
    table(box, `Image ${state.at + 1}, whose class is ${named(picture.label)}`,
      ["solver", "class", "evals", "residual", "ended"], picture.ways.map((way) => ({ cells: [
        way.solver, { text: `${named(way.prediction)} (${share(way.probability, 0)})`, class: `name ${way.prediction === picture.label ? "good" : "bad"}` },
        way.evaluations.toLocaleString("en"), small(way.residual),
        { text: ending(way), class: way.succeeded ? "good" : "bad" }] })));
  }

  function branch(picture) {
    const box = body("branch"), track = picture.branch;
    if (!track) return told(box, page.told.branch || page.told.paths || "The branch was not followed.");
    const ways = shown(picture).filter((way) => way.lam.length);
    const points = track.lam.map((lam, k) => [lam, track.points[k][0]]);
    const dots = ways.flatMap((way) => way.lam.map((lam, k) => [lam, way.points[k][0]]));
    const at = frame(box, `Roots of z = z0 + lambda (f(z) - z0): ${count(track.folds.length, "fold")}, ends at lambda ${small(track.lam.at(-1))}.`,
      span([0, 1, ...points.map((p) => p[0])], 0.03), span(points.map((p) => p[1])), ["λ", "first principal component"]);
    line(at, points, { class: "track" });
    for (const way of ways) way.lam.forEach((lam, k) => {
      if (k && way.evals[k] > state.upto) return;
      dot(at, [lam, way.points[k][0]], 4, { class: `mark ${style(way.solver)}` }, `${way.solver}, λ = ${small(lam)}, ${count(way.evals[k], "evaluation")}`);
    });
    track.folds.forEach((p) => dot(at, p, 6, { class: "from" }, `fold at λ = ${small(p[0])}`));
    dot(at, points[0], 5.5, { class: "from" }, "start");
    const end = track.status === "CONVERGED" ? "" : ` It ends before λ = 1: ${sentence(track.status)}.`;
    put(at.figure, "figcaption", { class: "caption" }, `Roots of z = z₀ + λ (f(z) − z₀), followed in ${count(track.evaluations, "evaluation")}; ` +
      `${track.folds.length ? count(track.folds.length, "fold") : "no fold"}.${end}${ways.length ? ` Dots: states of ${ways.map((way) => way.solver).join(", ")}.` : ""}`);
    details(box, `Branch, image ${state.at + 1}`, ["λ", "first", "second"],
      track.lam.map((lam, k) => ({ cells: [small(lam), small(track.points[k][0]), small(track.points[k][1])] })));
  }

  function votes(picture) {
    const box = body("votes"), polls = picture.certificates.filter((each) => each.votes).map((each) => each.votes);
    if (!polls.length) return told(box, "No noisy copies voted, as nothing would follow from it: see Certificate.");
    if (page.told.noise) told(box, page.told.noise);
    for (const poll of polls) {
      const most = Math.max(...poll.counts, poll.undecided, 1);
      const rows = poll.counts.map((votes, k) => ({ class: k === poll.selected ? "most" : "",
        cells: [named(k), votes.toLocaleString("en"), { bar: votes / most }] }));
      if (poll.undecided) rows.push({ cells: ["undecided", poll.undecided.toLocaleString("en"), { bar: poll.undecided / most }] });
      table(box, `${poll.n.toLocaleString("en")} copies with noise of σ = ${small(poll.sigma)}, in units of pixels from 0 to 1. In bold the class that is voted on; ${poll.n0} others chose it.`,
        ["class", "votes", ""], rows.filter((row, k) => k >= poll.counts.length || poll.counts.length <= 12 || poll.counts[k] || k === poll.selected));
    }
  }

  function certificates(picture) {
    const box = body("certificates");
    if (!picture.certificates.length) return told(box, `No certificate. ${page.told.certificates || ""}`);
    for (const each of picture.certificates) {
      const norm = each.norm === "linf" ? "ℓ∞" : "ℓ2", noise = each.votes ? ` at σ = ${small(each.votes.sigma)}` : "";
      if (each.prediction === null) {
        put(box, "p", { class: "claim bad" }, `Abstains${noise}`);
        told(box, each.votes ? "The votes do not prove any class to have more than half of the probability under noise. Nothing is claimed."
          : "The bound proves no class. Nothing is claimed.");
      } else {
        const right = each.prediction === picture.label;
        put(box, "p", { class: `claim ${right ? "good" : "bad"}` },
          `${named(each.prediction)} within ${norm} radius ${each.radius.toFixed(4)}${noise}${right ? "" : ` (the true class is ${named(picture.label)})`}`);
        put(box, "p", {}, `No change of the image whose ${norm} norm is below the radius, with pixels from 0 to 1, changes the class ` +
          `${each.votes ? "that is most probable under this noise" : "of the model"}.`);
        put(box, "p", {}, each.alpha === null ? "This is proved, without noise or chance."
          : `It is false with probability at most ${small(each.alpha)}, over the noise that was drawn, for each image by itself.`);
      }
      told(box, `About ${each.about}. ${each.votes ? "It does not speak of the class of one solve without noise." : ""}`);
    }
  }

  // ---- What is chosen: by the pickers, by arrow keys, by #image=3&hide=picard ----

  function show() {
    const picture = pictures[state.at];
    const evals = [...new Set(picture.ways.flatMap((way) => way.evals))].sort((a, b) => a - b);
    const range = document.getElementById("evals");
    range.max = Math.max(0, evals.length - 1);
    if (state.upto === Infinity) range.value = range.max;
    else range.value = Math.max(0, evals.filter((each) => each <= state.upto).length - 1);
    const said = state.upto === Infinity || state.upto >= (evals.at(-1) ?? 0) ? "their end" : count(evals[range.value], "evaluation");
    document.getElementById("count").textContent = said;
    range.setAttribute("aria-valuetext", said);
    range.oninput = () => { state.upto = range.value === range.max ? Infinity : evals[range.value]; show(); };
    document.getElementById("upto").hidden = !evals.length;
    for (const [id, fill] of Object.entries({ paths, residuals, found, branch, votes, certificates })) {
      const open = document.querySelector(`#${id} details`)?.open;
      body(id).replaceChildren();
      fill(picture);
      if (open) document.querySelector(`#${id} details`).open = true;
    }
    const radio = document.getElementById(`image-${state.at + 1}`);
    radio.checked = true;
    document.getElementById("now").textContent = `Image ${state.at + 1} of ${pictures.length}: number ` +
      `${picture.index} of the test set, class ${named(picture.label)}.`;
  }

  function hash() {
    const parts = [`image=${state.at + 1}`];
    if (state.hidden.size) parts.push(`hide=${[...state.hidden].map(encodeURIComponent).join(",")}`);
    history.replaceState(null, "", `#${parts.join("&")}`);
  }

  function read() {
    const given = new URLSearchParams(location.hash.slice(1)), k = Number(given.get("image"));
    if (Number.isInteger(k) && k >= 1 && k <= pictures.length) state.at = k - 1;
    state.hidden = new Set((given.get("hide") ?? "").split(",").filter((each) => solvers.includes(each)));
    for (const box of document.querySelectorAll("#solvers input")) box.checked = !state.hidden.has(box.value);
  }

  function choose(k, focus) {
    state.at = (k + pictures.length) % pictures.length;
    if (focus) document.getElementById(`image-${state.at + 1}`).focus();
    hash();
    show();
  }

  pictures.forEach((picture, k) => {
    const label = put(document.getElementById("images"), "label", { class: "pick" });
    const radio = put(label, "input", { type: "radio", name: "image", id: `image-${k + 1}`,
      "aria-label": `image ${k + 1}, class ${named(picture.label)}` });
    const box = put(label, "span");
    put(box, "img", { src: picture.png, alt: "" });
    put(box, "em", { title: named(picture.label) }, named(picture.label));
    radio.addEventListener("change", () => choose(k, false));
  });
  solvers.forEach((solver) => {
    const label = put(document.getElementById("solvers"), "label", { class: "toggle" });
    const box = put(label, "input", { type: "checkbox", value: solver, id: `solver-${solver}` });
    const svg = draw(label, "svg", { viewBox: "0 0 34 14", "aria-hidden": "true" });
    draw(svg, "path", { d: "M1 7H33", class: `way ${style(solver)}`, "stroke-width": 2.5, "stroke-dasharray": dash(solver) });
    draw(svg, "circle", { cx: 17, cy: 7, r: 4, class: `mark ${style(solver)}` });
    put(label, "span", {}, solver);
    box.addEventListener("change", () => {
      if (box.checked) state.hidden.delete(solver); else state.hidden.add(solver);
      hash();
      show();
    });
  });
  document.getElementById("solvers").hidden = !solvers.length;
  document.addEventListener("keydown", (event) => {
    if (event.target.closest("input, .scroll") || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { event.preventDefault(); choose(state.at + step, true); }
  });
  addEventListener("hashchange", () => { read(); show(); });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; requestAnimationFrame(show); } });
  document.getElementById("facts").textContent = `${page.run} · trained with ${page.trained_with}` +
    `${page.accuracy === null ? "" : ` · ${share(page.accuracy)} of the test images right`} · ${count(pictures.length, "test image")}, each solved by itself`;
  document.getElementById("made").textContent = `Made by homotopy-deq ${page.version} show. Everything is in this file; it asks no network for anything.`;
  read();
  show();
})();

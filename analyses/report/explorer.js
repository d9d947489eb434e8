(function () {
  "use strict";
  var box = document.querySelector("[data-explorer]");
  if (!box) { return; }
  var data = JSON.parse(document.getElementById("explorer-data").textContent);
  var CELL = 12, LEFT = 46, TOP = 6, BOTTOM = 30, GAP = 4;
  var state = { choice: 0, input: 0, head: data.head, query: data.nInput - 1, key: 0 };
  var NS = "http://www.w3.org/2000/svg";

  function make(tag, attributes, parent, text) {
    var node = document.createElement(tag);
    Object.keys(attributes || {}).forEach(function (k) { node.setAttribute(k, attributes[k]); });
    if (text !== undefined) { node.textContent = text; }
    if (parent) { parent.appendChild(node); }
    return node;
  }
  function draw(tag, attributes, parent, text) {
    var node = document.createElementNS(NS, tag);
    Object.keys(attributes).forEach(function (k) { node.setAttribute(k, attributes[k]); });
    if (text !== undefined) { node.textContent = text; }
    parent.appendChild(node);
    return node;
  }
  function unique(names) { return names.filter(function (n, i) { return names.indexOf(n) === i; }); }

  // Controls.
  var bar = make("div", { "class": "choices" }, box);
  function control(words, id) {
    var label = make("label", { "for": id }, bar, words + " ");
    return make("select", { id: id }, label);
  }
  var models = control("Model", "explorer-model"), prefixes = control("Prefix", "explorer-prefix");
  var heads = control("Head", "explorer-head"), inputs = control("Input", "explorer-input");
  function fill(select, names, values, chosen) {
    select.textContent = "";
    names.forEach(function (name, i) {
      var option = make("option", { value: values[i] }, select, name);
      option.selected = values[i] === chosen;
    });
  }
  function fillAll() {
    var now = data.choices[state.choice], run = now.inputs[state.input];
    var all = unique(data.choices.map(function (c) { return c.model; }));
    fill(models, all, all, now.model);
    var own = [];
    data.choices.forEach(function (c, i) { if (c.model === now.model) { own.push(i); } });
    fill(prefixes, own.map(function (i) { return data.choices[i].prefix; }), own, state.choice);
    fill(heads, run.on.map(function (_, i) { return "0." + i; }), run.on.map(function (_, i) { return i; }), state.head);
    fill(inputs, now.inputs.map(function (x) { return x.tokens.slice(0, data.nInput).join(" "); }),
      now.inputs.map(function (_, i) { return i; }), state.input);
  }
  function first(model) {
    return data.choices.findIndex(function (c) { return c.model === model; });
  }
  models.addEventListener("change", function () { state.choice = first(models.value); state.head = 0; state.input = 0; show(); });
  prefixes.addEventListener("change", function () { state.choice = Number(prefixes.value); show(); });
  heads.addEventListener("change", function () { state.head = Number(heads.value); show(); });
  inputs.addEventListener("change", function () { state.input = Number(inputs.value); show(); });

  // Two panels and one line that says what a cell holds.
  var panels = make("div", { "class": "panels" }, box);
  var out = make("output", { "aria-live": "polite" }, box);
  var sides = ["off", "on"].map(function (which) {
    var panel = make("div", { "class": "panel" }, panels);
    var title = make("h4", {}, panel);
    var pad = make("div", { tabindex: "0", role: "group" }, panel);
    pad.addEventListener("keydown", move);
    return { which: which, title: title, pad: pad, mark: null };
  });

  function at(row, query, key) { return row[query * (query + 1) / 2 + key] / data.steps; }
  function gates(run, query, slots) {
    return run.gate[state.head].slice(query * slots, (query + 1) * slots).map(function (x) { return x / data.steps; });
  }
  function left(side) {
    var slots = side.which === "on" ? data.choices[state.choice].slots : 0;
    return { slots: slots, x: LEFT + (slots ? slots * CELL + GAP : 0) };
  }
  function render(side) {
    var now = data.choices[state.choice], run = now.inputs[state.input], n = run.tokens.length;
    // Both panels are as wide as the one with slots, so that their cells are equal.
    var place = left(side), wide = left(sides[1]).x + n * CELL + 4, width = wide;
    var height = TOP + n * CELL + BOTTOM;
    side.title.textContent = side.which === "on" ? now.prefix : "no prefix";
    side.pad.textContent = "";
    side.pad.setAttribute("aria-label", "Attention, " + side.title.textContent + ", head 0." + state.head +
      ". Arrow keys move over the cells.");
    var svg = draw("svg", { viewBox: "0 0 " + width + " " + height, "aria-hidden": "true" }, side.pad);
    svg.style.maxWidth = width * 2.1 + "px";
    for (var q = 0; q < n; q++) {
      var y = TOP + q * CELL;
      draw("text", { x: LEFT - 4, y: y + 9, "text-anchor": "end" }, svg, q + ": " + run.tokens[q]);
      gates(run, q, place.slots).forEach(function (value, s) { cell(svg, LEFT + s * CELL, y, "--orange", value, q, s - place.slots); });
      for (var k = 0; k <= q; k++) {
        cell(svg, place.x + k * CELL, y, "--blue", at(run[side.which][state.head], q, k) / data.full, q, k);
      }
    }
    for (var s = 0; s < place.slots; s++) { label(svg, LEFT + s * CELL, n, "P" + (s + 1)); }
    for (k = 0; k < n; k++) { label(svg, place.x + k * CELL, n, String(k)); }
    draw("text", { x: place.x + n * CELL / 2, y: height - 3, "text-anchor": "middle" }, svg, "key: content position");
    side.mark = draw("rect", { "class": "chosen", width: CELL, height: CELL }, svg);
    svg.addEventListener("mousemove", choose);
    svg.addEventListener("click", choose);
  }
  function cell(svg, x, y, colour, value, query, key) {
    var rect = draw("rect", { "class": "cell", x: x, y: y, width: CELL, height: CELL,
      "fill-opacity": Math.min(1, value).toFixed(3), "data-q": query, "data-k": key }, svg);
    rect.style.fill = "var(" + colour + ")";
  }
  function label(svg, x, n, words) {
    draw("text", { x: x + CELL / 2, y: TOP + n * CELL + 10, "text-anchor": "middle", "class": "small" }, svg, words);
  }
  function choose(event) {
    var data_ = event.target.dataset;
    if (data_ && data_.q !== undefined) { state.query = Number(data_.q); state.key = Number(data_.k); tell(); }
  }
  function move(event) {
    var step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) { return; }
    event.preventDefault();
    state.query += step[0];
    state.key += step[1];
    tell();
  }
  function tell() {
    var now = data.choices[state.choice], run = now.inputs[state.input], n = run.tokens.length;
    state.query = Math.max(0, Math.min(n - 1, state.query));
    state.key = Math.max(-now.slots, Math.min(state.query, state.key));
    var q = state.query, k = state.key, own = gates(run, q, now.slots);
    var whole = own.reduce(function (a, b) { return a + b; }, 0);
    var words = "Query " + q + " (token " + run.tokens[q] + "): ";
    if (k < 0) {
      words += "to slot P" + (k + now.slots + 1) + " " + own[k + now.slots].toFixed(3) + ". ";
    } else {
      words += "to content " + k + " (token " + run.tokens[k] + ") " + at(run.off[state.head], q, k).toFixed(3) +
        " without the prefix, " + at(run.on[state.head], q, k).toFixed(3) + " with it, of what goes to the content. ";
    }
    out.textContent = words + (now.slots ? "The prefix takes " + whole.toFixed(3) + " of all attention." : "");
    sides.forEach(function (side) {
      var place = left(side), hidden = k < 0 && side.which === "off";
      side.mark.setAttribute("x", k < 0 ? LEFT + (k + now.slots) * CELL : place.x + k * CELL);
      side.mark.setAttribute("y", TOP + q * CELL);
      side.mark.setAttribute("visibility", hidden ? "hidden" : "visible");
    });
  }
  function show() { fillAll(); sides.forEach(render); tell(); box.setAttribute("data-drawn", "yes"); }
  show();
  box.closest("figure").classList.add("scripted");
}());

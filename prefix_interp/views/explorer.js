(function () {
  "use strict";
  var NS = "http://www.w3.org/2000/svg", CELL = 12, TOP = 4, GAP = 6;
  var DARK = { blue: [8, 64, 129], orange: [150, 52, 4], purple: [74, 20, 134] };

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
  function shade(part, colour) {
    return DARK[colour].map(function (c) { return Math.round(255 + (c - 255) * Math.min(1, part)); });
  }
  function light(rgb) {  // relative luminance, to choose the text that can be read on it
    var x = rgb.map(function (c) { c /= 255; return c <= 0.04045 ? c / 12.92 : Math.pow((c + 0.055) / 1.055, 2.4); });
    return 0.2126 * x[0] + 0.7152 * x[1] + 0.0722 * x[2];
  }
  function paint(node, part, colour) {
    var rgb = shade(part, colour);
    node.style.backgroundColor = "rgb(" + rgb.join(",") + ")";
    node.style.color = light(rgb) > 0.18 ? "#000" : "#fff";
  }
  function minus(text) { return text.replace("-", "\u2212"); }
  function signed(x, digits) {
    var text = x.toFixed(digits);
    return Number(text) === 0 ? (0).toFixed(digits) : (x > 0 ? "+" : "") + minus(text);
  }
  function percent(x) { return (100 * x).toFixed(1) + " %"; }
  function range(n) { return Array.from({ length: n }, function (_, i) { return i; }); }

  function start(box) {
    var data = JSON.parse(box.querySelector("script[type='application/json']").textContent);
    var live = box.querySelector(".pi-live");
    var state = { colour: 0, layer: data.first[0], head: data.first[1], sentence: 0, fade: 0, query: 0, key: 0 };
    var cells = [];

    function index(layer, head) { return layer * data.heads + head; }
    function value(colour, i) { return data.colours[colour].values[i] * data.colours[colour].step; }
    function lead() {
      return data.leading.findIndex(function (x) { return x.head[0] === state.layer && x.head[1] === state.head; });
    }

    // What the cells are coloured by.
    var choice = make("fieldset", { "class": "pi-choice" }, live);
    make("legend", {}, choice, "Colour the heads by");
    var group = "pi-" + Math.random().toString(36).slice(2);
    data.colours.forEach(function (colour, i) {
      var label = make("label", {}, choice);
      var radio = make("input", { type: "radio", name: group }, label);
      radio.checked = i === 0;
      label.appendChild(document.createTextNode(" " + colour.name));
      radio.addEventListener("change", function () { state.colour = i; recolour(); });
    });

    // The grid: one tab stop, arrow keys inside, Enter or Space opens.
    var split = make("div", { "class": "pi-split" }, live);
    var wrap = make("div", { "class": "pi-scroll" }, split);
    var table = make("table", { role: "grid", "aria-label": "Heads: layers are rows, heads are columns. Arrow keys move, Enter opens." }, wrap);
    var top = make("tr", {}, make("thead", {}, table));
    make("th", { scope: "col" }, top, "layer");
    range(data.heads).forEach(function (h) { make("th", { scope: "col" }, top, String(h)); });
    var body = make("tbody", {}, table);
    range(data.layers).forEach(function (l) {
      var row = make("tr", {}, body);
      make("th", { scope: "row" }, row, String(l));
      range(data.heads).forEach(function (h) {
        var cell = make("td", { role: "gridcell", tabindex: "-1", "aria-selected": "false" }, row);
        cell.addEventListener("click", function () { open(l, h); cell.focus(); });
        cell.addEventListener("keydown", function (event) { walk(event, l, h); });
        cells.push(cell);
      });
    });
    function walk(event, l, h) {
      var step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -h], End: [0, data.heads] }[event.key];
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(l, h); return; }
      if (!step) { return; }
      event.preventDefault();
      l = Math.max(0, Math.min(data.layers - 1, l + step[0]));
      h = Math.max(0, Math.min(data.heads - 1, h + step[1]));
      stop(l, h);
      cells[index(l, h)].focus();
    }
    function stop(l, h) {  // the one cell that Tab reaches
      cells.forEach(function (cell, i) { cell.tabIndex = i === index(l, h) ? 0 : -1; });
    }
    function recolour() {
      var colour = data.colours[state.colour];
      var largest = Math.max.apply(null, colour.values.map(Math.abs)) * colour.step || 1;
      cells.forEach(function (cell, i) {
        var x = value(state.colour, i), part = Math.abs(x) / (colour.top || largest);
        paint(cell, part, x < 0 ? "orange" : colour.tone);
        cell.textContent = data.heads > 16 ? "" : (colour.signed ? signed(x, colour.digits) : x.toFixed(colour.digits));
        var name = "head " + Math.floor(i / data.heads) + "." + i % data.heads;
        cell.setAttribute("aria-label", name + ", " + colour.name + " " + (colour.signed ? signed(x, 4) : x.toFixed(3)));
      });
    }

    // The head that is open.
    var panel = make("div", { "class": "pi-panel", role: "region", "aria-label": "The head that is open" }, split);
    var title = make("p", { "class": "pi-title" }, panel);
    var facts = make("p", { "aria-live": "polite" }, panel);
    var bars = make("div", { "class": "pi-bars" }, panel);
    var more = make("details", { "class": "pi-more" }, panel);
    make("summary", {}, more, "Gate and bias by position, as a table");
    var rows = make("div", { "class": "pi-scroll pi-rows", tabindex: "0", role: "region", "aria-label": "Gate and bias by position" }, more);
    var deep = make("div", { "class": "pi-deep", role: "region", "aria-label": "Attention and fades of the head that is open" }, live), none = make("p", { "class": "pi-soft" }, panel,
      "Attention and fades are kept for the leading heads alone: " + data.leading.map(function (x) { return x.head.join("."); }).join(", ") + ".");
    var bar = make("div", { "class": "pi-choice" }, deep);
    var pick = make("select", {}, make("label", {}, bar, "Sentence "));
    data.sentences.forEach(function (s, i) {
      var words = s.words.slice(0, s.tokens).join(data.space);
      make("option", { value: i }, pick, (i + 1) + ": " + (words.length > 42 ? words.slice(0, 40) + "\u2026" : words));
    });
    pick.addEventListener("change", function () { state.sentence = Number(pick.value); state.query = 1e9; state.key = 0; deeper(); });
    var slide = make("label", { "class": "pi-slide" }, bar, "Prefix at this head ");
    var slider = make("input", { type: "range", min: 0, max: data.fades.length - 1, step: 1, value: data.fades.length - 1 }, slide);
    var shown = make("span", { "class": "pi-shown" }, slide);
    slider.addEventListener("input", function () { state.fade = data.fades.length - 1 - Number(slider.value); deeper(); });
    var faded = make("p", { "aria-live": "polite" }, deep);
    var scale = make("p", { "class": "pi-head" }, deep);
    var pad = make("div", { tabindex: "0", role: "group", "class": "pi-pad" }, deep);
    var told = make("output", { "aria-live": "polite" }, deep);
    make("p", { "class": "pi-head" }, deep, "Log-probability of each answer, change from no prefix (nats)");
    var tokens = make("p", { "class": "pi-tokens" }, deep);
    pad.addEventListener("keydown", move);
    var mark = null, place = null;

    function open(l, h) {
      if (cells[index(state.layer, state.head)]) { cells[index(state.layer, state.head)].setAttribute("aria-selected", "false"); }
      state.layer = l; state.head = h; state.fade = 0; state.query = 1e9; state.key = 0;
      slider.value = data.fades.length - 1;
      var i = index(l, h), f = data.facts[i], x = data.leading[lead()];
      cells[i].setAttribute("aria-selected", "true");
      stop(l, h);
      title.textContent = "Layer " + l + ", head " + h;
      facts.textContent = "Gate " + percent(value(0, i)) + ". Bias: mean size " + value(1, i).toFixed(3) + ", rank " + f.rank +
        ", effective rank " + f.effective.toFixed(2) + ". Attention to the first token " + percent(f.sink[0]) + " without the prefix, " +
        percent(f.sink[1]) + " with it." + (f.raised ? " Its bias raises " + f.raised.map(quote).join(", ") + "; it lowers " + f.lowered.map(quote).join(", ") + "." : "") +
        " Estimated effect " + signed(value(2, i), 4) + " nats" + (x ? "; exact " + signed(x.enough[0], 4) + " (" + signed(x.enough[1], 4) + " to " + signed(x.enough[2], 4) +
        "), random prefixes " + signed(x.control[0], 4) + " to " + signed(x.control[1], 4) + (x.elicited ? ": elicited." : ": not beyond them.") : ".");
      positions(i);
      none.hidden = !!x;
      deep.hidden = !x;
      if (x) { deeper(); }
    }
    function quote(token) { return "\u201c" + token + "\u201d"; }

    function positions(i) {
      var gate = data.gate[i], bias = data.bias[i], n = gate.length, top = data.biasTop || 1;
      bars.textContent = "";
      rows.textContent = "";
      var step = Math.max(6, Math.min(18, 420 / n)), width = 46 + n * step;
      var svg = draw("svg", { viewBox: "0 0 " + width + " 96", role: "img", "aria-label": "Gate and size of the bias by position; the table below has the numbers" }, bars);
      svg.style.maxWidth = width * 1.2 + "px";
      [["gate", gate, 1000, "--orange", 38], ["bias", bias, 1000, "--violet", 82]].forEach(function (one) {
        draw("text", { x: 40, y: one[4], "text-anchor": "end" }, svg, one[0]);
        draw("line", { x1: 44, x2: width, y1: one[4], y2: one[4], "class": "pi-axis" }, svg);
        one[1].forEach(function (v, p) {
          var high = 32 * v / one[2];
          draw("rect", { x: 46 + p * step, y: one[4] - high, width: step - 1.5, height: high }, svg).style.fill = "var(" + one[3] + ")";
        });
      });
      range(n).forEach(function (p) {
        if (p % Math.ceil(n / 20) === 0) { draw("text", { x: 46 + (p + 0.5) * step - 1, y: 94, "text-anchor": "middle", "class": "pi-small" }, svg, String(p)); }
      });
      var list = make("table", {}, rows), head = make("tr", {}, make("thead", {}, list)), inside = make("tbody", {}, list);
      ["position", "gate", "size of the bias"].forEach(function (w) { make("th", { scope: "col" }, head, w); });
      range(n).forEach(function (p) {
        var row = make("tr", {}, inside);
        make("th", { scope: "row" }, row, String(p));
        make("td", {}, row, (gate[p] / 1000).toFixed(3));
        make("td", {}, row, (top * bias[p] / 1000).toFixed(3));
      });
    }

    function most(rows) { return Math.max(0.001, Math.max.apply(null, rows.map(function (r) { return Math.max.apply(null, r); })) / 1000); }
    function now() { var s = data.sentences[state.sentence]; return { s: s, at: s.at[lead()] }; }
    function slots(at, q) {  // the prefix's mass, faded, competes with the content's: as in the model
      var f = data.fades[state.fade], own = at.slots[q].map(function (v) { return v / 1000; });
      var all = own.reduce(function (a, b) { return a + b; }, 0), left = Math.max(0, 1 - all) + f * all;
      return own.map(function (v) { return left > 0 ? f * v / left : 0; });
    }
    function tri(row, q, k) { return row[q * (q + 1) / 2 + k] / 1000; }

    function deeper() {
      var d = now(), n = d.s.tokens, f = data.fades[state.fade], own = data.leading[lead()];
      shown.textContent = Math.round(100 * f) + " %";
      slider.setAttribute("aria-valuetext", shown.textContent);
      faded.textContent = "With " + shown.textContent + " of the prefix at this head the answers' mean log-probability is " +
        minus(own.fades[state.fade].toFixed(3)) + " nats (" + minus(own.fades[0].toFixed(3)) + " with all of it, " + minus(data.off.toFixed(3)) + " without any prefix).";
      var dark = most(d.at.slots);
      scale.textContent = "Attention: prefix slots apart (strongest " + dark.toFixed(2) + "), content renormalised (strongest 0.5 or more)";
      var wide = Math.max(8, Math.min(16, Math.max.apply(null, d.s.words.map(function (w) { return w.length; }))));
      var left = 24 + wide * 5.4, x0 = left + data.slots * CELL + GAP, width = x0 + n * CELL + 2, height = TOP + n * CELL + 24;
      place = { left: left, x0: x0 };
      pad.textContent = "";
      pad.setAttribute("aria-label", "Attention of head " + state.layer + "." + state.head + ". Arrow keys move over the cells.");
      var svg = draw("svg", { viewBox: "0 0 " + width + " " + height, "aria-hidden": "true" }, pad);
      svg.style.maxWidth = width * 1.5 + "px";
      range(n).forEach(function (q) {
        var y = TOP + q * CELL, word = d.s.words[q];
        draw("text", { x: left - 4, y: y + 9, "text-anchor": "end" }, svg, q + ": " + (word.length > 16 ? word.slice(0, 15) + "\u2026" : word));
        slots(d.at, q).forEach(function (v, s) { square(svg, left + s * CELL, y, "--orange", v / dark, q, s - data.slots); });
        range(q + 1).forEach(function (k) { square(svg, x0 + k * CELL, y, "--blue", tri(d.at.on, q, k) / 0.5, q, k); });
      });
      range(data.slots).forEach(function (s) { if (s % Math.ceil(data.slots / 8) === 0) { note(svg, left + s * CELL, n, "P" + (s + 1)); } });
      range(n).forEach(function (k) { if (k % Math.ceil(n / 24) === 0) { note(svg, x0 + k * CELL, n, String(k)); } });
      draw("text", { x: x0 + n * CELL / 2, y: height - 2, "text-anchor": "middle" }, svg, "key: position of the content");
      mark = draw("rect", { "class": "pi-mark", width: CELL, height: CELL }, svg);
      svg.addEventListener("mousemove", point);
      svg.addEventListener("click", point);
      say();
      words(d);
    }
    function square(svg, x, y, colour, v, q, k) {
      var rect = draw("rect", { x: x, y: y, width: CELL, height: CELL, "class": "pi-cell", "fill-opacity": Math.min(1, v).toFixed(3), "data-q": q, "data-k": k }, svg);
      rect.style.fill = "var(" + colour + ")";
    }
    function note(svg, x, n, text) {
      draw("text", { x: x + CELL / 2, y: TOP + n * CELL + 9, "text-anchor": "middle", "class": "pi-small" }, svg, text);
    }
    function point(event) {
      var own = event.target.dataset;
      if (own && own.q !== undefined) { state.query = Number(own.q); state.key = Number(own.k); say(); }
    }
    function move(event) {
      var step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) { return; }
      event.preventDefault();
      state.query += step[0];
      state.key += step[1];
      say();
    }
    function say() {
      var d = now(), q = Math.max(0, Math.min(d.s.tokens - 1, state.query)), k = Math.max(-data.slots, Math.min(q, state.key));
      state.query = q;
      state.key = k;
      var own = slots(d.at, q), text = "Query " + q + " (" + d.s.words[q] + "): ";
      text += k < 0 ? "to slot P" + (k + data.slots + 1) + " " + own[k + data.slots].toFixed(3) + ". "
        : "to content " + k + " (" + d.s.words[k] + ") " + tri(d.at.on, q, k).toFixed(3) + " of what goes to the content, " + tri(d.at.off, q, k).toFixed(3) + " without the prefix. ";
      told.textContent = text + "The prefix takes " + own.reduce(function (a, b) { return a + b; }, 0).toFixed(3) + " of all attention.";
      mark.setAttribute("x", k < 0 ? place.left + (k + data.slots) * CELL : place.x0 + k * CELL);
      mark.setAttribute("y", TOP + q * CELL);
    }
    function words(d) {
      tokens.textContent = "";
      var change = {};
      d.s.places.forEach(function (p, j) { change[p] = (d.at.fades[state.fade][j] - d.s.off[j]) / 1000; });
      d.s.words.forEach(function (word, p) {
        var box = make("span", { "class": "pi-token" }, tokens), shown = make("span", {}, box, (p >= d.s.tokens ? "\u2192 " : "") + word);
        var has = change[p] !== undefined;
        if (has && Math.abs(change[p]) >= 0.02) { paint(shown, 0.75 * Math.min(1, Math.abs(change[p]) / 2), change[p] < 0 ? "orange" : "blue"); }
        make("small", {}, box, has ? signed(change[p], 2) : "\u00a0");
        tokens.appendChild(document.createTextNode(" "));
      });
    }

    recolour();
    open(state.layer, state.head);
    box.setAttribute("data-drawn", "yes");
    box.classList.add("scripted");
  }
  document.querySelectorAll(".pi-explorer:not([data-drawn])").forEach(start);
}());

"use strict";
// Draws a study from the data in the page. Text is inserted as text nodes only, so that no name can be markup.
const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d1f", "#56b4e9", "#7a4fb5", "#777f88"];
const DASHES = ["", "6 3", "2 3", "9 3 2 3"];
const KINDS = { AA: "#2b7a4b", PA: "#d3e6d8", MA_missed: "#8fb8de", MD_missed: "#3d6fa8", MA_spurious: "#f2b37c", MD_spurious: "#d9742b",
  PD: "#b9b4bd", AD: "#b3132b" };
const WORDS = { AA: "AA: both find it", PA: "PA: neither does", MA_missed: "MA, missed", MD_missed: "MD, missed", MA_spurious: "MA, spurious",
  MD_spurious: "MD, spurious", PD: "PD: neither does, and the order differs", AD: "AD: both find it, in opposite directions" };
const LABELS = { recall: "recall", precision: "precision", tau: "Kendall's tau", tau_ap: "tau_AP", balanced_accuracy: "balanced accuracy", f1: "F1" };
const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const testOf = (row) => row.correction === "none" ? row.test : `${row.test} + ${row.correction}`;
const methods = unique(data.rows.map((row) => row.method));
// The eight methods with the highest recall are shown at first, in distinct colours.
const meanRecall = (name) => data.rows.reduce((sum, row) => sum + (row.method === name ? row.recall || 0 : 0), 0);
const byRecall = [...methods].sort((a, b) => meanRecall(b) - meanRecall(a));
const style = new Map(byRecall.map((name, at) => [name, { colour: COLOURS[at % 8], dash: DASHES[Math.floor(at / 8) % 4] }]));
const hidden = new Set(byRecall.slice(8));
let sorting = null;

function createElement(tag, attributes, ...children) {
  const svg = ["svg", "path", "circle", "line", "text", "title"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
function fillSelect(select, values, changed) {
  select.replaceChildren(...values.map((value) => createElement("option", { value }, value)));
  select.onchange = changed;
}
const number = (value, digits = 3) => value === null ? "–" : value.toFixed(digits);
const selectedRows = () => data.rows.filter((row) => row.measure === byId("measure").value && testOf(row) === byId("test").value);

// The interval of a value; without samples of topics and systems, one standard deviation over seeds.
function bandOf(row, name) {
  if (row.interval && row.interval[name]) return row.interval[name];
  const spread = row.spread && row.spread[name] || 0;
  return [row[name] - spread, row[name] + spread];
}

// One curve per method: the judged fraction of the pool against a value of the rows.
function curve(place, rows, name) {
  const W = 420, H = 250, L = 50, R = 18, T = 8, B = 34;
  const points = rows.filter((row) => row[name] !== null);
  const x = (row) => L + (W - L - R) * row.judged / data.documents;
  const low = Math.min(0.9, Math.floor(10 * Math.min(...points.map((row) => row[name]))) / 10);
  const y = (value) => T + (H - T - B) * (1 - (value - low) / (1 - low));
  const svg = createElement("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": name });
  if (!points.length) { place.replaceChildren(createElement("p", { class: "hint" }, "Undefined: no pair is significant.")); return; }
  const step = low >= 0.8 ? 0.02 * Math.ceil(5 * (1 - low) + 0.01) : low >= 0.5 ? 0.1 : low >= 0 ? 0.2 : 0.5;
  const shown = methods.filter((m) => !hidden.has(m));
  for (let n = 0; 1 - n * step > low - 1e-9; n++) {
    const tick = Math.round(100 * (1 - n * step)) / 100;
    svg.append(createElement("line", { class: "axis", x1: L, x2: W - R, y1: y(tick), y2: y(tick) }),
      createElement("text", { x: L - 5, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  for (const tick of [0, 0.25, 0.5, 0.75, 1])
    svg.append(createElement("text", { x: L + (W - L - R) * tick, y: H - B + 15, "text-anchor": "middle" }, `${tick * 100}%`));
  svg.append(createElement("text", { x: (W + L) / 2, y: H - 4, "text-anchor": "middle" }, "judged fraction of the pool"),
    createElement("text", { transform: `translate(11 ${(H - B) / 2}) rotate(-90)`, "text-anchor": "middle" }, LABELS[name]));
  for (const method of shown) {
    const mine = points.filter((row) => row.method === method).sort((a, b) => a.judged - b.judged);
    if (!mine.length) continue;
    const { colour, dash } = style.get(method);
    const band = (row) => bandOf(row, name);
    if (shown.length <= 6 && mine.some((row) => band(row)[1] > band(row)[0])) {
      const at = (row, sign) => `${x(row)},${y(Math.max(low, Math.min(1, band(row)[sign > 0 ? 1 : 0])))}`;
      const edge = [...mine.map((row) => at(row, 1)), ...[...mine].reverse().map((row) => at(row, -1))];
      svg.append(createElement("path", { d: `M${edge.join("L")}Z`, fill: colour, opacity: 0.15 }));
    }
    svg.append(createElement("path", { d: `M${mine.map((row) => `${x(row)},${y(row[name])}`).join("L")}`, fill: "none", stroke: colour,
      "stroke-width": 1.8, "stroke-dasharray": dash }));
    for (const row of mine) {
      const [from, to] = band(row), more = to > from ? ` (${number(from)} to ${number(to)})` : "";
      svg.append(createElement("circle", { cx: x(row), cy: y(row[name]), r: 3, fill: colour },
        createElement("title", {}, `${method}, ${row.budget} (${Math.round(row.judged)} documents): ${number(row[name])}${more}`)));
    }
  }
  place.replaceChildren(svg);
}
function drawCurves() {
  for (const place of document.querySelectorAll("[data-curve]")) curve(place, selectedRows(), place.dataset.curve);
}
function drawLegend() {
  byId("legend").replaceChildren(...methods.map((method) => {
    const { colour, dash } = style.get(method);
    const line = createElement("svg", { viewBox: "0 0 26 8", style: "width:26px" },
      createElement("line", { x1: 0, x2: 26, y1: 4, y2: 4, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash }));
    const button = createElement("button", { type: "button", "aria-pressed": String(!hidden.has(method)) }, line, method);
    button.onclick = () => { hidden.has(method) ? hidden.delete(method) : hidden.add(method); drawLegend(); drawCurves(); };
    return button;
  }));
}
const COUNTS = ["AA", "AD", "MA_missed", "MA_spurious", "MD_missed", "MD_spurious", "PA", "PD"];
const COLUMNS = ["method", "budget", "judged", ...COUNTS, "precision", "recall", "balanced_accuracy", "type_1", "type_2", "tau", "tau_ap", "rbo", "max_drop"];
const FEW_DIGITS = new Set(["judged", "max_drop", ...COUNTS]);
function sortedRows() {
  if (!sorting) return selectedRows();
  const value = (row) => sorting.name === "budget" ? row.judged : row[sorting.name];
  const compare = (a, b) => a === b ? 0 : a === null ? 1 : b === null ? -1 : (a < b ? -1 : 1) * sorting.sign;
  return selectedRows().sort((a, b) => compare(value(a), value(b)));
}
function drawTable() {
  const head = createElement("tr", {}, ...COLUMNS.map((name, at) => {
    const mine = sorting && sorting.name === name;
    const button = createElement("button", { type: "button" }, name.replaceAll("_", " "));
    button.onclick = () => { sorting = { name, sign: mine ? -sorting.sign : at < 2 ? 1 : -1 }; drawTable(); };
    return createElement("th", { scope: "col", ...(at > 1 ? { class: "n" } : {}), "aria-sort": mine ? sorting.sign > 0 ? "ascending" : "descending" : "none" }, button);
  }));
  let before = "";
  const body = sortedRows().map((row) => {
    const line = createElement("tr", sorting || row.method === before ? {} : { class: "first" }, ...COLUMNS.map((name, at) => {
      if (at < 2) return createElement("td", {}, row[name]);
      const digits = !FEW_DIGITS.has(name) ? 3 : Number.isInteger(row[name]) ? 0 : 1, bounds = row.interval && row.interval[name];
      return createElement("td", { class: "n", ...(bounds ? { title: `${number(bounds[0])} to ${number(bounds[1])}` } : {}) }, number(row[name], digits));
    }));
    before = row.method;
    return line;
  });
  byId("categories").replaceChildren(createElement("thead", {}, head), createElement("tbody", {}, ...body));
}

// The map: systems in gold's order; every pair is drawn twice, so that the row and column of a system are complete.
function drawMap() {
  const row = selectedRows().find((r) => r.method === byId("method").value && r.budget === byId("budget").value);
  const codes = row && data.codes[[row.method, row.budget, row.measure, row.test, row.correction].join("|")];
  const canvas = byId("map"), context = canvas.getContext("2d"), many = data.systems.length;
  const side = Math.max(2, Math.floor(600 / many));
  canvas.width = canvas.height = side * many;
  context.clearRect(0, 0, canvas.width, canvas.height);
  byId("fairness").replaceChildren();
  if (!codes) { byId("pair").textContent = "The study is too large: the page does not contain the pairs of this measure and test."; return; }
  const order = data.orders[row.measure], place = new Array(many);
  order.forEach((system, at) => { place[system] = at; });
  const grid = new Int8Array(many * many).fill(-1), missed = new Array(many).fill(0), spurious = new Array(many).fill(0);
  const gap = side > 4 ? 1 : 0, counts = new Map();
  for (let a = 0, at = 0; a < many; a++) for (let b = a + 1; b < many; b++, at++) {
    const code = codes.charCodeAt(at) - 48, name = data.names[code];
    grid[place[a] * many + place[b]] = grid[place[b] * many + place[a]] = code;
    counts.set(name, (counts.get(name) || 0) + 1);
    if (name.endsWith("missed")) { missed[a]++; missed[b]++; }
    if (name.endsWith("spurious")) { spurious[a]++; spurious[b]++; }
    context.fillStyle = KINDS[name];
    for (const [i, j] of [[a, b], [b, a]]) context.fillRect(place[i] * side, place[j] * side, side - gap, side - gap);
  }
  byId("key").replaceChildren(...Object.keys(WORDS).map((name) =>
    createElement("li", {}, createElement("span", { style: `background:${KINDS[name]}` }), `${WORDS[name]} (${counts.get(name) || 0})`)));
  byId("pair").textContent = "";
  canvas.onpointerdown = canvas.onpointermove = (event) => {
    const box = canvas.getBoundingClientRect();
    const [i, j] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((part) => Math.floor(part * many));
    const code = i >= 0 && j >= 0 && i < many && j < many ? grid[i * many + j] : -1;
    byId("pair").textContent = code < 0 ? "" : `${data.systems[order[Math.min(i, j)]]} and ${data.systems[order[Math.max(i, j)]]}: ${WORDS[data.names[code]]}`;
  };
  const wrong = (system) => `${missed[system]} missed, ${spurious[system]} spurious`;
  const most = Math.max(1, ...missed.map((count, at) => count + spurious[at]));
  byId("fairness").replaceChildren(...order.map((system) => createElement("div", { class: "bar", title: wrong(system) },
    createElement("b", {}, data.systems[system]), createElement("div", {},
      createElement("i", { style: `width:${88 * missed[system] / most}%;background:${KINDS.MD_missed}` }),
      createElement("i", { style: `width:${88 * spurious[system] / most}%;background:${KINDS.MD_spurious}` }),
      createElement("span", {}, ` ${missed[system]} + ${spurious[system]}`)))),
    createElement("p", { class: "hint" }, createElement("span", { class: "swatch", style: `background:${KINDS.MD_missed}` }), "missed  ",
      createElement("span", { class: "swatch", style: `background:${KINDS.MD_spurious}` }), "spurious"));
}
// Tables that are complete in the page: the button of a column sorts by it, and reverses the order.
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = createElement("button", { type: "button" }, head.textContent), text = (row) => row.cells[at].textContent;
    head.replaceChildren(button);
    button.onclick = () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => sign * text(a).localeCompare(text(b), undefined, { numeric: true })));
    };
  });
}
document.querySelectorAll(".sortable").forEach(makeSortable);
function drawAll() { drawLegend(); drawCurves(); drawTable(); drawMap(); }
fillSelect(byId("measure"), unique(data.rows.map((row) => row.measure)), drawAll);
fillSelect(byId("test"), unique(data.rows.map(testOf)), drawAll);
fillSelect(byId("method"), methods, drawMap);
fillSelect(byId("budget"), unique(data.rows.map((row) => row.budget)), drawMap);
drawAll();

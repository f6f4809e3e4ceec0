"use strict";
// Sorts and filters the tables of the page, tests again what a filter leaves, and shows the effect of a run on each query. All texts are inserted as text nodes, never as markup.
// Scores and lists are loaded as scripts that call the two functions below, because a page opened from the file system cannot fetch files.
document.documentElement.classList.add("scripted");
const boards = new Map(), lists = new Map(), waiting = new Map();
window.listrankBoard = (board) => boards.set(board.key, board);
window.listrankLists = (found) => lists.set(`${found.key}/${found.number}`, found);

const SHOWN = 20;
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
function made(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const many = (count, one, more) => `${count} ${count === 1 ? one : more}`;

// Colours: system, light or dark; stored if the browser allows it.
const THEMES = { "": "system", light: "light", dark: "dark" };
function stored(value) {
  try { if (value === undefined) return localStorage.getItem("listrank-theme") || ""; localStorage.setItem("listrank-theme", value); } catch { /* no storage here */ }
  return value || "";
}
function paint(theme) {
  const known = theme in THEMES ? theme : "";
  if (known) document.documentElement.dataset.theme = known; else delete document.documentElement.dataset.theme;
  const button = document.getElementById("theme");
  if (button) button.textContent = `Colours: ${THEMES[known]}`;
}
paint(stored());

// On a narrow screen, explanations and filters are closed, so that the table begins on the first screen.
function openWhereThereIsRoom() {
  all("details.roomy").forEach((part) => { part.open = matchMedia("(min-width: 45rem)").matches; });
}

// Sorting: the button of a column reverses its order; unknown values are always last.
function sortBy(table, key, direction) {
  const heads = all("thead th", table), at = heads.findIndex((head) => head.dataset.key === key), numeric = heads[at].dataset.kind === "n";
  const value = (row) => row.children[at].dataset.value;
  const places = new Map(all("tbody tr", table).map((row) => [row, Number(row.children[0].dataset.value)]));
  const rows = [...places.keys()].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
    const order = numeric ? Number(x) - Number(y) : x.localeCompare(y, undefined, { numeric: true, sensitivity: "base" });
    return direction * order || places.get(a) - places.get(b);
  });
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[at].setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  table.tBodies[0].append(...rows);
}
const BEST_FIRST = new Set(["mean", "low", "gain", "other0", "other1", "other2", "judged", "beats"]);
function sortable(table, kept) {
  all("thead th", table).forEach((head) => head.querySelector("button").addEventListener("click", () => {
    const now = head.getAttribute("aria-sort"), first = BEST_FIRST.has(head.dataset.key) ? -1 : 1;
    sortBy(table, head.dataset.key, now === null ? first : now === "ascending" ? -1 : 1);
    if (kept) kept(head.dataset.key, head.getAttribute("aria-sort") === "ascending" ? 1 : -1);
  }));
}

const FACETS = ["group", "stage", "weights"];
function setUp(section) {
  const key = section.id, form = section.querySelector("form"), detail = section.querySelector(".detail");
  const field = (name) => form.querySelector(`[data-filter="${name}"]`);
  const chosenValue = (name) => { const found = field(name); return found ? found.value : ""; };
  const measure = () => Number((form.querySelector("[data-role=measure]") || { value: 0 }).value);
  const state = { run: null, query: null, against: null, sort: null };
  const parts = all(".measure", section);
  all(".runs tbody tr", section).forEach((row) => { row.dataset.find = row.textContent.toLowerCase(); }); // the ranks in superscripts change

  // Shows the runs that fit the filters, and repeats the tests among them. Ties with the best are those among them, so that choice comes last.
  function filter() {
    const words = chosenValue("text").toLowerCase().split(/\s+/).filter(Boolean), tied = field("tied").checked, board = boards.get(key);
    const fits = (row) => FACETS.every((name) => { const want = chosenValue(name); return !want || (want === "?" ? row.dataset[name] === "" : row.dataset[name] === want); })
      && words.every((word) => row.dataset.find.includes(word));
    const family = all(".runs tbody tr", parts[0]).filter(fits).map((row) => Number(row.dataset.run));
    const results = board.measures.map((_, m) => numbers.retest(board, m, family)), members = new Set(family);
    parts.forEach((part, m) => {
      part.classList.toggle("chosen", m === measure());
      const shown = tied ? family.filter((run) => results[m].tied.has(run)) : family, visible = new Set(shown);
      for (const row of all(".runs tbody tr", part)) {
        const run = Number(row.dataset.run);
        row.hidden = !visible.has(run);
        if (members.has(run)) updateRow(row, run, m, results);
      }
      updateRule(part, board, m, family, results[m]);
      if (m === measure()) all(".pareto", part).forEach((figure) => updatePlot(figure, board, m, visible));
      if (m === measure()) form.querySelector(".count").textContent = `${shown.length} of ${many(board.runs.length, "run", "runs")}`;
    });
    applySort();
  }
  function updateRow(row, run, m, results) {
    const found = results[m], cell = (name) => row.querySelector(`[data-of=${name}]`);
    const put = (name, value) => { cell(name).dataset.value = value; cell(name).textContent = value; };
    put("place", found.places.get(run));
    put("beats", found.beats.get(run).length);
    put("beaten", found.beaten.get(run));
    const above = row.querySelector("sup"), mark = found.marks ? found.marks.get(run) || "" : (above.textContent.match(/[↑↓]$/) || [""])[0];
    above.textContent = numbers.ranges(found.beats.get(run)) + mark;
    row.classList.toggle("tied", found.tied.has(run));
    row.querySelector(".tie").textContent = found.tied.has(run) ? " ties with the best" : "";
    const star = row.querySelector(".star");
    if (star) star.textContent = found.gains.get(run) ? "*" : "";
    all("[data-of=other]", row).forEach((other) => { other.querySelector(".dot").textContent = results[Number(other.dataset.measure)].tied.has(run) ? "•" : ""; });
  }
  function updateRule(part, board, m, family, found) {
    const table = board.tables[m], filtered = family.length < board.runs.length && table.p !== null, place = part.querySelector(".retested");
    part.querySelector(".tested").hidden = filtered;
    part.querySelector(".tied-count").textContent = found.tied.size;
    place.hidden = !filtered;
    const corrected = (count, noun) => (table.correction === "none" ? "not corrected" : `after ${table.title}'s correction over ${count} ${noun}`);
    const gains = [...found.gains.values()], others = found.marks ? found.marks.size : 0;
    if (filtered) place.textContent = table.familyWise
      ? `The test covers all ${board.runs.length} runs together, so it is not repeated for the ${family.length} that fit the filters: these are its decisions for all runs.`
      : `Tested again among the ${family.length} runs that fit the filters: ${found.significant} of ${found.pairs} pairs differ significantly, ${corrected(found.pairs, "pairs")}, level ${table.alpha}. `
        + (gains.length ? `* ${gains.filter(Boolean).length} of ${many(gains.length, "gain", "gains")} over the runs' own first stages are significant, ${corrected(gains.length, "gains")}. ` : "")
        + (found.marks ? `↑ and ↓ compare with ${board.runs[table.baseline].name}, ${corrected(others, "comparisons")}.` : "");
  }
  // Draws the Pareto front of the runs that are shown, and names those of unknown cost; points and labels keep their places.
  function updatePlot(figure, board, m, visible) {
    const svg = figure.querySelector("svg"), { high, down, top, bottom, right } = Object.fromEntries(Object.entries(svg.dataset).map(([name, value]) => [name, Number(value)]));
    const points = all(".point", svg), shown = points.filter((point) => visible.has(Number(point.dataset.run)));
    points.forEach((point) => { point.style.display = visible.has(Number(point.dataset.run)) ? "" : "none"; });
    const unknown = figure.querySelector(".unknown"), without = [...visible].filter((run) => board.costs[figure.dataset.cost][run] === null).sort((a, b) => a - b);
    if (unknown) {
      unknown.hidden = !without.length;
      unknown.querySelector("summary").textContent = `Not shown, because their cost is unknown: ${without.length} of ${many(visible.size, "run", "runs")}.`;
      unknown.querySelector("p").textContent = without.map((run) => board.runs[run].name).join(", ");
    }
    const runs = shown.map((point) => Number(point.dataset.run)), costs = runs.map((run) => board.costs[figure.dataset.cost][run]);
    const lines = [svg.querySelector(".front"), svg.querySelector(".band")];
    lines.forEach((line) => { line.style.display = shown.length ? "" : "none"; });
    if (!shown.length) return;
    const found = numbers.front(costs, runs.map((run) => board.values[m][run]));
    const xs = found.levels.map((level) => Number(shown[costs.indexOf(level)].querySelector("circle").getAttribute("cx")));
    const steps = (values) => values.flatMap((value, at) => { const y = Math.min(bottom, Math.max(top, top + (high - value) * down)); return [[xs[at], y], [at + 1 < xs.length ? xs[at + 1] : right, y]]; });
    const format = (corners) => corners.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    lines[0].setAttribute("points", format(steps(found.best)));
    lines[1].setAttribute("points", format([...steps(found.high), ...steps(found.low).reverse()]));
    shown.forEach((point, at) => {
      point.classList.toggle("on-front", found.on[at]);
      point.querySelector("circle").setAttribute("r", found.on[at] ? 5.5 : 4);
      point.querySelector(".name").textContent = point.dataset.name + (found.shares[at] >= 0.005 ? ` ${Math.round(100 * found.shares[at])}%` : "");
    });
  }
  function applySort() {
    const [name, direction] = state.sort || ["place", 1], table = parts[measure()].querySelector(".runs");
    if (all("thead th", table).some((head) => head.dataset.key === name)) sortBy(table, name, direction);
  }

  function load(number) {
    const name = `${key}/${number}`;
    if (lists.has(name)) return Promise.resolve(lists.get(name));
    if (!waiting.has(name)) waiting.set(name, new Promise((resolve, reject) => {
      const script = made("script", { src: `${boards.get(key).folder}/${number}.js` });
      script.onload = () => resolve(lists.get(name));
      script.onerror = () => { waiting.delete(name); reject(new Error(`${script.src} is missing`)); };
      document.head.append(script);
    }));
    return waiting.get(name);
  }

  function open(run, query = null, against = undefined) {
    const board = boards.get(key), known = board.runs[run];
    if (state.run !== run) state.against = known.before;
    if (against !== undefined) state.against = against;
    Object.assign(state, { run, query });
    all(".runs tbody tr", section).forEach((row) => row.classList.toggle("open", Number(row.dataset.run) === run));
    const close = made("button", { type: "button" }, "Close");
    close.onclick = shut;
    const choice = made("select", {}, made("option", { value: "" }, "nothing"), ...board.runs.map((other, at) => made("option", { value: at }, other.name)));
    all("option", choice).forEach((option) => { if (option.value === String(run)) option.disabled = true; });
    choice.value = state.against === null ? "" : String(state.against);
    choice.onchange = () => open(run, state.query, choice.value === "" ? null : Number(choice.value));
    const before = (known.before === null ? "The run that it reranked is not on this leaderboard." : `It reranked ${board.runs[known.before].name}.`)
      + (known.lists ? "" : " Only its scores are recorded here, not its lists.");
    detail.replaceChildren(
      made("header", {}, made("h3", {}, known.name), close),
      made("p", { class: "hint" }, known.note ? `${before} ${known.note}` : before),
      made("div", { class: "controls" }, made("label", {}, "Compare with ", choice)),
      made("div", { class: "wide queries", tabindex: "0", role: "region", "aria-label": "Queries" }, queryTable(board, run)),
      made("div", { class: "answer", "aria-live": "polite" }));
    detail.hidden = false;
    if (query !== null && (known.lists || (state.against !== null && board.runs[state.against].lists))) show(query);
    remember();
  }
  function shut() {
    const row = section.querySelector(`.measure.chosen tr[data-run="${state.run}"] .run`);
    Object.assign(state, { run: null, query: null, against: null });
    detail.hidden = true;
    detail.replaceChildren();
    all("tr.open", section).forEach((open) => open.classList.remove("open"));
    remember();
    if (row) row.focus();
  }

  function queryTable(board, run) {
    const m = measure(), mine = board.values[m][run], other = state.against === null ? null : board.values[m][state.against];
    const names = [["place", "n", "#"], ["id", "t", "query"], ["text", "t", "text"], ["mean", "n", board.measures[m]]];
    if (other) names.push(["other", "n", state.against === boards.get(key).runs[run].before ? "before" : "other run"], ["change", "n", "change"]);
    const head = made("tr", {}, ...names.map(([id, kind, words], at) => made("th", { scope: "col", "data-key": id, "data-kind": kind, class: kind === "n" ? "n" : null, "aria-sort": at ? null : "ascending" },
      made("button", { type: "button" }, words))));
    const known = board.runs[run].lists || (state.against !== null && board.runs[state.against].lists);
    const rows = board.queries.map((query, at) => {
      const button = known ? made("button", { type: "button", class: "query" }, query.id) : query.id;
      if (known) button.onclick = () => { state.query = at; show(at, true); remember(); };
      const row = made("tr", { "data-query": at }, made("td", { class: "n", "data-value": at + 1 }, String(at + 1)), made("th", { scope: "row", "data-value": query.id }, button),
        made("td", { "data-value": query.text }, query.text || "–"), made("td", { class: "n", "data-value": mine[at] }, mine[at].toFixed(4)));
      if (other) {
        const change = mine[at] - other[at], sign = change > 1e-9 ? "up" : change < -1e-9 ? "down" : "same";
        row.append(made("td", { class: "n", "data-value": other[at] }, other[at].toFixed(4)),
          made("td", { class: `n ${sign}`, "data-value": change }, `${sign === "up" ? "+" : ""}${sign === "same" ? "0" : change.toFixed(4)}`));
      }
      return row;
    });
    const table = made("table", {}, made("thead", {}, head), made("tbody", {}, ...rows));
    sortable(table);
    return table;
  }

  async function show(number, scroll = false) {
    const board = boards.get(key), place = detail.querySelector(".answer"), { run, against } = state;
    all(".queries tr", detail).forEach((row) => row.classList.toggle("open", row.dataset.query === String(number)));
    let found;
    try { found = await load(number); } catch (error) { place.replaceChildren(made("p", { class: "down" }, `The lists of this query cannot be shown: ${error.message}.`)); return; }
    if (state.run !== run || state.query !== number || state.against !== against) return; // the user has selected another query meanwhile
    const query = board.queries[number], m = measure(), after = found.lists[run], first = against === null ? null : found.lists[against];
    const value = (at) => board.values[m][at][number].toFixed(4);
    const rankOf = (list) => new Map((list || []).map((doc, at) => [doc, at + 1]));
    const before = rankOf(first), now = rankOf(after);
    const parts = [made("h4", {}, `${query.id}${query.text ? `: ${query.text}` : ""}`)];
    const relevant = (list) => (list || []).slice(0, 10).filter((doc) => (found.grades[doc] || 0) >= board.relevant).length;
    if (first && after) parts.push(made("p", {}, `${board.measures[m]}: ${value(against)} → ${value(run)}. Of the top 10, ${after.slice(0, 10).filter((doc) => !(before.get(doc) <= 10)).length} are new. `
      + `Grade ${board.relevant} or higher in the top 10: ${relevant(first)} → ${relevant(after)}.`));
    else parts.push(made("p", {}, `${board.measures[m]}: ${value(run)}. Grade ${board.relevant} or higher in the top 10: ${relevant(after)}.`));
    const columns = [column(found, after, first ? before : null, board.runs[run].name, found.lengths[run], first ? found.lengths[against] : 0)];
    if (against !== null) columns.unshift(column(found, first, null, board.runs[against].name, found.lengths[against], 0, now));
    parts.push(made("div", { class: "lists" }, ...columns));
    place.replaceChildren(...parts);
    if (scroll) place.scrollIntoView({ block: "nearest" });
  }

  // Renders one list. `before` maps documents to their ranks in the earlier list, `later` to those in the later one.
  function column(found, list, before, title, length, otherLength, later = null) {
    const kept = boards.get(key).kept, box = made("div", {}, made("h4", {}, title));
    if (!list) { box.append(made("p", {}, "No list of this run for this query is stored here.")); return box; }
    const items = list.map((doc, at) => {
      const grade = found.grades[doc], judged = grade !== null;
      const badge = made("span", { class: `grade${judged ? "" : " none"}`, "data-grade": judged ? Math.max(0, Math.min(3, grade)) : null, title: judged ? `grade ${grade}` : "not judged" }, judged ? String(grade) : "?");
      const [sign, words, title] = before ? moved(at + 1, before.get(doc), otherLength > kept) : later ? (later.has(doc) ? ["same", `→ ${later.get(doc)}`, `rank ${later.get(doc)} afterwards`] : ["same", "→ –", "not ranked afterwards"]) : ["same", "", null];
      const text = found.texts && found.texts[doc];
      const item = made("li", at === 9 ? { class: "cut" } : {}, made("span", { class: "n same" }, String(at + 1)), badge, made("span", { class: `move ${sign}`, title }, words),
        made("span", {}, found.docs[doc], ...(text ? [made("p", {}, text)] : [])));
      item.hidden = at >= SHOWN;
      return item;
    });
    box.append(made("ol", { class: before || later ? null : "alone" }, ...items));
    if (items.length > SHOWN) {
      const more = made("button", { type: "button" }, `Show all ${items.length}`);
      more.onclick = () => { items.forEach((item) => { item.hidden = false; }); more.remove(); };
      box.append(more);
    }
    if (length > kept) box.append(made("p", {}, `The first ${kept} of ${length} documents are stored here.`));
    return box;
  }
  function moved(rank, before, cut) {
    if (before === undefined) return ["up", "new", cut ? "was not among the stored documents before" : "was not in the list before"];
    if (before === rank) return ["same", "=", `was at rank ${before}`];
    return before > rank ? ["up", `▲ ${before - rank}`, `was at rank ${before}`] : ["down", `▼ ${rank - before}`, `was at rank ${before}`];
  }

  // What is selected, as parameters of the address; defaults are left out.
  function selected() {
    const board = boards.get(key), found = { measure: measure() ? board.measures[measure()] : "", tied: field("tied").checked ? "1" : "" };
    for (const name of ["text", ...FACETS]) found[name] = chosenValue(name);
    if (state.sort) found.sort = `${state.sort[1] < 0 ? "-" : ""}${state.sort[0]}`;
    if (state.run !== null) {
      found.run = board.runs[state.run].name;
      if (state.query !== null) found.query = board.queries[state.query].id;
      if (state.against !== board.runs[state.run].before) found.against = state.against === null ? NOTHING : board.runs[state.against].name;
    }
    return found;
  }
  function restore(get) {
    const board = boards.get(key), choice = form.querySelector("[data-role=measure]");
    if (choice) choice.value = String(Math.max(0, board.measures.indexOf(get("measure"))));
    field("tied").checked = get("tied") === "1";
    for (const name of ["text", ...FACETS].filter((name) => field(name))) {
      field(name).value = get(name) || "";
      if (field(name).selectedIndex === -1) field(name).value = "";
    }
    const sort = get("sort");
    state.sort = sort ? [sort.replace(/^-/, ""), sort.startsWith("-") ? -1 : 1] : null;
    filter();
    const number = (name) => board.runs.findIndex((one) => one.name === name), run = number(get("run")), query = board.queries.findIndex((one) => one.id === get("query"));
    const against = get("against") === NOTHING ? null : number(get("against"));
    if (run >= 0) open(run, query >= 0 ? query : null, against === -1 ? undefined : against);
    else if (state.run !== null) shut();
  }

  form.addEventListener("input", () => { filter(); remember(); });
  const choice = form.querySelector("[data-role=measure]");
  if (choice) choice.addEventListener("change", () => { if (state.run !== null) open(state.run, state.query, state.against); });
  all(".runs", section).forEach((table) => sortable(table, (name, direction) => { state.sort = [name, direction]; remember(); }));
  section.addEventListener("click", (event) => {
    const button = event.target.closest(".run"), point = event.target.closest(".point");
    if (!button && !point) return;
    open(Number((point || button.closest("tr")).dataset.run));
    detail.focus({ preventScroll: true });
    detail.scrollIntoView({ block: "start" });
  });
  section.addEventListener("keydown", (event) => { if (event.key === "Escape" && state.run !== null) shut(); });
  return { key, selected, restore };
}

const BOARD_FILTERS = ["collection", "category", "language"];
function filterBoards() {
  const value = (id) => { const found = document.getElementById(id); return found ? found.value : ""; };
  let shown = 0;
  for (const section of all(".board")) {
    const fits = (!value("collection") || section.id === value("collection")) && ["category", "language"].every((name) => !value(name) || section.dataset[name] === value(name));
    section.hidden = !fits;
    shown += fits;
  }
  const status = document.getElementById("shown");
  if (status) status.textContent = `${shown} of ${many(all(".board").length, "collection", "collections")}`;
}

// The address contains the selection of every board, with the key of the board before each name if there are several.
const views = [], NOTHING = "-";
let restoring = false;
const prefix = (view) => (views.length > 1 ? `${view.key}.` : "");
function remember() {
  if (restoring) return;
  const asked = new URLSearchParams();
  const put = (name, value) => { if (value) asked.set(name, value); };
  BOARD_FILTERS.forEach((id) => { const found = document.getElementById(id); if (found) put(id, found.value); });
  views.forEach((view) => Object.entries(view.selected()).forEach(([name, value]) => put(prefix(view) + name, value)));
  history.replaceState(null, "", `#${asked}`);
}
function restore() {
  const asked = new URLSearchParams(location.hash.slice(1));
  restoring = true;
  BOARD_FILTERS.forEach((id) => {
    const found = document.getElementById(id);
    if (!found) return;
    found.value = asked.get(id) || "";
    if (found.selectedIndex === -1) found.value = "";
  });
  filterBoards();
  // addresses of earlier versions name the board of the run
  views.forEach((view) => view.restore((name) => asked.get(prefix(view) + name) ?? (asked.get("board") === view.key ? asked.get(name) : null)));
  restoring = false;
}

addEventListener("DOMContentLoaded", () => {
  paint(stored());
  openWhereThereIsRoom();
  addEventListener("submit", (event) => event.preventDefault()); // the forms only filter
  document.getElementById("theme").onclick = () => {
    const order = Object.keys(THEMES), next = order[(order.indexOf(stored()) + 1) % order.length];
    stored(next);
    paint(next);
  };
  views.push(...all(".board").map(setUp));
  const choices = document.getElementById("boards");
  if (choices) choices.addEventListener("input", () => { filterBoards(); remember(); });
  restore();
  addEventListener("hashchange", restore);
});

"use strict";

const byId = (id) => document.getElementById(id);
const EXAMPLE = {
  query: "how long do fleas live",
  passages: [
    "The town has two bakeries and a library that opens on Sundays.",
    "Dogs that scratch often should be examined by a veterinarian for parasites.",
    "Fleas live for two to three months. Without a host, an adult flea may survive for one or two weeks.",
    "Steel bridges rust unless they are painted every few years.",
    "The life cycle of the flea has four stages: egg, larva, pupa and adult.",
  ].join("\n"),
};
const SHOWN_WORDS = 5;
let key = "";
let settings = null;
let run = new Map(); // query id -> ids of documents, of the loaded TREC run
let shown = []; // one entry per panel: {list, items, before, after}

// Texts reach the page only as text nodes, so that nothing in a passage is interpreted.
function make(tag, className = "", text = null) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== null) element.textContent = text;
  return element;
}

class ApiError extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function call(path, body) {
  const headers = { Accept: "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), credentials: "omit" });
  } catch {
    throw new ApiError(0, "The server cannot be reached.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new ApiError(response.status, answer.message || `The server answered with status ${response.status}.`);
  return answer;
}

// Start, with the server's key if it needs one

async function start() {
  try {
    settings = await call("/playground/settings");
  } catch (error) {
    const needsKey = error.status === 401;
    byId("key-form").hidden = !needsKey;
    byId(needsKey ? "key-error" : "error").textContent = needsKey && !key ? "" : error.message;
    document.querySelector("main").hidden = needsKey;
    if (needsKey) byId("key").focus();
    return;
  }
  byId("key-form").hidden = true;
  document.querySelector("main").hidden = false;
  byId("model").textContent = settings.model;
  byId("depth").max = Math.min(1000, settings.max_documents);
  for (const method of settings.methods) byId("method-a").append(new Option(method.label, method.name));
  byId("method-b").append(new Option("nothing", "-"), ...settings.methods.map((method) => new Option(method.label, method.name)));
  if (settings.collection !== null) {
    byId("collection").textContent = settings.collection;
    for (const label of document.querySelectorAll(".of-collection")) label.hidden = false;
  }
  showSource();
  showMethods();
  byId("query").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = byId("key").value.trim();
  byId("key").value = "";
  start();
});

// The form

const source = () => document.querySelector('input[name="source"]:checked').value;
const HINTS = {
  text: "One passage per line, or passages separated by empty lines.",
  jsonl: 'One object per line, such as {"id": "1", "title": "...", "text": "..."}.',
  run: "Lines of six columns: query, Q0, document, rank, score, tag. The texts come from the collection.",
};

function showSource() {
  const kind = source();
  byId("passages-field").hidden = kind === "search";
  byId("topic-field").hidden = kind !== "run" || run.size === 0;
  if (kind === "run") readRun();
  showCount();
}

function showCount() {
  const kind = source();
  let count = "";
  try {
    if (kind === "text" || kind === "jsonl") count = `${readPassages(kind).length} passages. `;
    if (kind === "run") count = `${run.size} queries. `;
  } catch (error) {
    count = `${error.message} `;
  }
  byId("passages-hint").textContent = count + (HINTS[kind] || "");
}

function readPassages(kind) {
  const text = byId("passages").value.replace(/\r\n?/g, "\n");
  if (kind === "text") {
    const blocks = text.split(/\n[^\S\n]*\n/).map((part) => part.trim()).filter(Boolean);
    const parts = blocks.length > 1 ? blocks : text.split("\n").map((part) => part.trim()).filter(Boolean);
    return parts.map((part, index) => ({ id: String(index + 1), text: part }));
  }
  return text.split("\n").map((line, index) => [line, index + 1]).filter(([line]) => line.trim()).map(([line, number], index) => {
    let row;
    try {
      row = JSON.parse(line);
    } catch {
      throw new Error(`Line ${number} is not JSON.`);
    }
    if (typeof row === "string") row = { text: row };
    const body = row && (row.text ?? row.contents ?? row.content ?? row.body ?? row.passage);
    if (typeof body !== "string") throw new Error(`Line ${number} has no field "text".`);
    const id = row.id ?? row._id ?? row.docid ?? index + 1;
    return { id: String(id), text: row.title ? `${row.title}\n${body}` : body };
  });
}

function readRun() {
  const rows = new Map();
  for (const line of byId("passages").value.split("\n")) {
    const columns = line.trim().split(/\s+/);
    if (columns.length < 5) continue;
    if (!rows.has(columns[0])) rows.set(columns[0], []);
    rows.get(columns[0]).push({ id: columns[2], rank: Number(columns[3]), score: Number(columns[4]) });
  }
  run = new Map([...rows].map(([query, found]) => [query, found.sort((a, b) => b.score - a.score || a.rank - b.rank).map((row) => row.id)]));
  byId("topic").replaceChildren(...[...run.keys()].map((query) => new Option(query, query)));
  byId("topic-field").hidden = run.size === 0;
}

function showMethods() {
  const named = new Map(settings.methods.map((method) => [method.name, method]));
  const chosen = [byId("method-a").value, byId("method-b").value].map((name) => named.get(name)).filter(Boolean);
  byId("summary-a").textContent = chosen.map((method) => `${method.label}: ${method.summary}.`).join(" ");
  byId("heat").disabled = !chosen.some((method) => method.heat);
  if (byId("heat").disabled) byId("heat").checked = false;
}

byId("sources").addEventListener("change", showSource);
for (const id of ["method-a", "method-b"]) byId(id).addEventListener("change", showMethods);
byId("passages").addEventListener("input", () => { if (source() === "run") readRun(); showCount(); });
byId("file").addEventListener("change", async () => {
  const [file] = byId("file").files;
  if (!file) return;
  byId("passages").value = await file.text();
  const kinds = { jsonl: "jsonl", trec: "run", run: "run", txt: "text" };
  const kind = kinds[file.name.split(".").pop().toLowerCase()];
  const radio = document.querySelector(`input[name="source"][value="${kind}"]`);
  if (radio && !radio.parentElement.hidden) radio.checked = true;
  showSource();
});
byId("example").addEventListener("click", () => {
  document.querySelector('input[name="source"][value="text"]').checked = true;
  byId("query").value = EXAMPLE.query;
  byId("passages").value = EXAMPLE.passages;
  showSource();
});

// Ranking

function makeBody() {
  const kind = source();
  const body = { query: byId("query").value.trim(), depth: Number(byId("depth").value) || 20 };
  let ids = null;
  if (kind === "text" || kind === "jsonl") {
    const passages = readPassages(kind);
    if (passages.length === 0) throw new Error("There are no passages.");
    body.documents = passages.map((passage) => passage.text);
    ids = passages.map((passage) => passage.id);
  } else if (kind === "run") {
    if (run.size === 0) throw new Error("There is no run with five or more columns.");
    body.query_id = byId("topic").value;
    body.ids = run.get(body.query_id);
  }
  if (!body.query && !body.query_id) throw new Error("The query is empty.");
  return { body, ids };
}

byId("question").addEventListener("submit", async (event) => {
  event.preventDefault();
  byId("error").textContent = "";
  const button = byId("submit");
  try {
    const { body, ids } = makeBody();
    const named = new Map(settings.methods.map((method) => [method.name, method]));
    const chosen = [byId("method-a").value, byId("method-b").value].filter((name) => name !== "-").map((name) => named.get(name));
    button.disabled = true;
    byId("status").textContent = "Ranking …";
    const answers = [];
    for (const method of chosen) {
      const heat = byId("heat").checked && method.heat;
      answers.push([method, await call("/playground/rank", { ...body, method: method.name, heat })]);
    }
    showAnswers(answers, ids);
    byId("status").textContent = answers.map(([method, answer]) => `${method.label}: ${answer.results.length} passages in ${formatSeconds(answer.seconds)}.`).join(" ");
  } catch (error) {
    byId("status").textContent = "";
    byId("error").textContent = error.message;
    if (error.status === 401) { key = ""; start(); }
  } finally {
    button.disabled = false;
  }
});

const formatSeconds = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`);
const formatScore = (score) => (Math.abs(score) >= 1e-3 || score === 0 ? String(Number(score.toPrecision(4))) : score.toExponential(2));

function showAnswers(answers, ids) {
  shown = [];
  byId("panels").replaceChildren(...answers.map(([method, answer]) => makePanel(method, answer, ids)));
  byId("output").hidden = false;
  order("before", false);
  // The lists are seen in their first order before they move.
  setTimeout(() => order("after", true), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 500);
}

function makePanel(method, answer, ids) {
  const panel = byId("panel-template").content.cloneNode(true).firstElementChild;
  panel.querySelector("h2").textContent = method.label;
  panel.querySelector("h2").title = answer.query;
  const usage = answer.usage;
  const cached = usage.tokens_cached ? ` (${usage.tokens_cached} cached)` : "";
  const figures = {
    "prompt tokens": `${usage.tokens_in}${cached}`,
    "completion tokens": usage.tokens_out,
    calls: usage.calls,
    time: formatSeconds(answer.seconds),
    cost: answer.cost === null ? "unknown" : `$${answer.cost.toPrecision(3)}`,
  };
  for (const [name, value] of Object.entries(figures)) {
    const figure = make("div");
    figure.append(make("dt", "", name), make("dd", "", String(value)));
    panel.querySelector("dl").append(figure);
  }
  panel.querySelector(".warnings").append(...answer.warnings.map((warning) => make("li", "", warning)));
  const items = answer.documents.map((document, index) => makeItem(document, index, ids, answer));
  const list = panel.querySelector(".list");
  list.setAttribute("aria-label", `Passages ranked by ${method.label}`);
  list.append(...items);
  const after = answer.results.map((result) => result.index);
  shown.push({ list, items, before: items.map((_, index) => index), after });
  fillCalls(panel.querySelector(".calls"), answer);
  fillExamples(panel.querySelector(".examples div"), answer.examples);
  return panel;
}

function makeItem(document, index, ids, answer) {
  const item = make("li");
  const content = make("div");
  const result = answer.results.find((row) => row.index === index);
  const scores = [];
  if (document.score !== null) scores.push(`first stage: ${formatScore(document.score)}`);
  if (result && result.score !== null) scores.push(`${answer.score_kind || "score"}: ${formatScore(result.score)}`);
  if (result && result.relevance !== null) scores.push(`probability: ${formatScore(result.relevance)}`);
  content.append(make("div", "meta", [`id ${ids === null ? document.id : ids[index]}`, ...scores].join(" · ")));
  const text = make("div", "text");
  fillText(text, document);
  content.append(text);
  if (document.text.length > 500) {
    text.classList.add("long");
    const more = make("button", "more", "Show all");
    more.type = "button";
    more.setAttribute("aria-expanded", "false");
    more.addEventListener("click", () => {
      const open = text.classList.toggle("open");
      more.textContent = open ? "Show less" : "Show all";
      more.setAttribute("aria-expanded", String(open));
    });
    content.append(more);
  }
  if (document.words) content.append(make("div", "words", describeWords(document)));
  item.append(make("span", "rank"), make("span", "move"), content);
  return item;
}

// Offsets of words count code points, those of JavaScript's strings do not.
function fillText(element, document) {
  const characters = Array.from(document.text);
  const highest = Math.max(0, ...(document.words || []).map((word) => word[2]));
  let end = 0;
  for (const [start, stop, share] of document.words || []) {
    const level = highest > 0 ? Math.min(4, Math.floor((share / highest) * 5)) : 0;
    if (level === 0) continue;
    element.append(characters.slice(end, start).join(""));
    const mark = make("mark", `heat-${level}`, characters.slice(start, stop).join(""));
    mark.title = `${(share * 100).toFixed(1)} % of the passage's attention`;
    element.append(mark);
    end = stop;
  }
  element.append(characters.slice(end).join(""));
}

function describeWords(document) {
  const characters = Array.from(document.text);
  const best = document.words.filter((word) => word[2] > 0).sort((a, b) => b[2] - a[2]).slice(0, SHOWN_WORDS);
  if (best.length === 0) return "No word drew attention.";
  return `Most attention: ${best.map(([start, stop, share]) => `${characters.slice(start, stop).join("")} ${Math.round(share * 100)} %`).join(", ")}`;
}

function order(which, moves) {
  byId("before").setAttribute("aria-pressed", String(which === "before"));
  byId("after").setAttribute("aria-pressed", String(which === "after"));
  const isStill = !moves || matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const panel of shown) {
    const tops = panel.items.map((item) => item.getBoundingClientRect().top);
    const ranked = panel[which];
    ranked.forEach((index, position) => {
      const item = panel.items[index];
      item.querySelector(".rank").textContent = `${position + 1}.`;
      const change = which === "after" ? index - position : 0;
      const move = item.querySelector(".move");
      move.className = `move ${change > 0 ? "up" : change < 0 ? "down" : "same"}`;
      move.replaceChildren();
      if (which === "after") {
        const sign = make("span", "", change > 0 ? `▲ ${change}` : change < 0 ? `▼ ${-change}` : "=");
        sign.setAttribute("aria-hidden", "true");
        const words = change === 0 ? "same rank" : `${change > 0 ? "up" : "down"} ${Math.abs(change)}`;
        move.append(sign, make("span", "hidden", words));
      }
      panel.list.append(item);
    });
    if (isStill) continue;
    panel.items.forEach((item, index) => {
      const offset = tops[index] - item.getBoundingClientRect().top;
      if (offset) item.animate([{ transform: `translateY(${offset}px)` }, { transform: "none" }], { duration: 700, easing: "ease-in-out" });
    });
  }
}

byId("before").addEventListener("click", () => order("before", true));
byId("after").addEventListener("click", () => order("after", true));

function fillCalls(details, answer) {
  const content = details.querySelector("div");
  const total = answer.usage.calls;
  if (answer.calls.length < total) content.append(make("p", "hint", `${answer.calls.length} of ${total} calls`));
  answer.calls.forEach((request, index) => {
    const block = make("div", "call");
    const name = request.task.replace(/Task$/, "").toLowerCase();
    block.append(make("h3", "", `Call ${index + 1}: ${name}, ${request.tokens_in} + ${request.tokens_out} tokens, ${formatSeconds(request.seconds)}, finish ${request.finish}`));
    for (const message of request.prompt) block.append(make("div", "hint", message.role), preformatted(message.content));
    if (request.thoughts) block.append(make("div", "hint", "thoughts"), preformatted(request.thoughts));
    if (request.completion) block.append(make("div", "hint", "completion, as generated"), preformatted(request.completion));
    if (request.scores.length) block.append(make("div", "hint", "scores"), preformatted(request.scores.map(formatScore).join("  ")));
    content.append(block);
  });
}

function preformatted(text) {
  const element = make("pre", "", text);
  element.tabIndex = 0; // it scrolls, so that the keyboard must reach it
  return element;
}

const EXAMPLE_NAMES = { curl: "curl", python: "Python", command: "Command line" };

function fillExamples(content, examples) {
  for (const [name, text] of Object.entries(examples)) {
    const head = make("div", "row between");
    const button = make("button", "", "Copy");
    button.type = "button";
    button.setAttribute("aria-label", `Copy the example for ${EXAMPLE_NAMES[name]}`);
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select and copy by hand";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    head.append(make("h3", "", EXAMPLE_NAMES[name]), button);
    content.append(head, preformatted(text));
  }
}

start();

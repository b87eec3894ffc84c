"use strict";
// What a model wrote reaches the page through textContent alone, so it is shown and never interpreted.

const PAGE_SIZE = 50;
const groups = JSON.parse(document.getElementById("data").textContent);
const rows = groups.flatMap((group) => group.answers.map((answer, index) => ({ group, answer, index })));
const byId = (id) => document.getElementById(id);

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const words = (name) => String(name).replaceAll("_", " ");
const oneLine = (text) => text.slice(0, 300).replace(/\s+/g, " ").trim();
const shown = (value) => (value === null ? "–" : String(Math.round(value * 1000) / 1000));
const fateOf = ({ group, answer }) =>
  group.heldOut ? (answer.score === null ? `held-out, ${words(answer.outcome ?? "failed")}` : "held-out") : words(answer.fate);
const versionsOf = ({ answer: { versions: [oldest, newest] } }) =>
  oldest === null ? "–" : oldest === newest ? String(oldest) : `${oldest}–${newest}`;

function scoreClass(score) {
  if (score === null) return "none";
  return score >= 1 ? "right" : score > 0 ? "between" : "wrong";
}

// ---------------------------------------------------------------- the table

const COLUMNS = [
  { name: "step", value: (row) => row.group.step },
  { name: "score", value: (row) => row.answer.score },
  { name: "prompt", value: (row) => row.group.prompt },
  { name: "answer", value: (row) => row.answer.text },
  { name: "fate", value: fateOf },
  { name: "advantage", value: (row) => row.answer.advantage, numeric: true },
  { name: "tokens", value: (row) => row.answer.tokens, numeric: true },
  { name: "versions", value: (row) => row.answer.versions[0] },
];

const state = { found: rows, page: 0, sortBy: null, descending: false, open: null };

function drawHead() {
  const head = byId("table").tHead.rows[0];
  head.replaceChildren(
    ...COLUMNS.map((column) => {
      const cell = element("th", column.numeric ? "n" : "");
      if (state.sortBy === column) cell.ariaSort = state.descending ? "descending" : "ascending";
      const button = element("button", "", column.name);
      button.type = "button";
      button.addEventListener("click", () => sortBy(column));
      cell.append(button);
      return cell;
    }),
  );
}

function sortBy(column) {
  state.descending = state.sortBy === column ? !state.descending : false;
  state.sortBy = column;
  update();
}

function compare(first, second) {
  const [a, b] = [first, second].map(state.sortBy.value);
  if (a === null || b === null) return (a === null) - (b === null); // without a value: last, either way
  const order = a < b ? -1 : a > b ? 1 : 0;
  return state.descending ? -order : order;
}

function matches(row, filters) {
  const { group, answer } = row;
  if (filters.step !== "" && group.step !== Number(filters.step)) return false;
  if (filters.fate !== "" && fateOf(row) !== filters.fate) return false;
  if (filters.least !== "" && !(answer.score !== null && answer.score >= Number(filters.least))) return false;
  if (filters.most !== "" && !(answer.score !== null && answer.score <= Number(filters.most))) return false;
  if (filters.search === "") return true;
  const texts = [group.prompt, answer.text, group.target, answer.detail, group.task];
  return texts.some((text) => text.toLowerCase().includes(filters.search));
}

function update() {
  const filters = Object.fromEntries(["step", "fate", "least", "most"].map((id) => [id, byId(id).value]));
  filters.search = byId("search").value.trim().toLowerCase();
  state.found = rows.filter((row) => matches(row, filters));
  if (state.sortBy) state.found.sort(compare);
  state.page = 0;
  drawHead();
  drawPage();
}

function drawPage() {
  const first = state.page * PAGE_SIZE;
  const visible = state.found.slice(first, first + PAGE_SIZE);
  state.open = null;
  byId("table").tBodies[0].replaceChildren(...visible.map(drawRow));
  const total = state.found.length;
  byId("found").textContent = `${total.toLocaleString("en")} of ${rows.length.toLocaleString("en")} answers`;
  byId("pages").hidden = total <= PAGE_SIZE;
  byId("where").textContent = `${first + 1}–${first + visible.length} of ${total.toLocaleString("en")}`;
  byId("back").disabled = state.page === 0;
  byId("next").disabled = first + PAGE_SIZE >= total;
}

function drawRow(row) {
  const line = element("tr", "row");
  const opener = element("button", "", String(row.group.step));
  opener.type = "button";
  opener.ariaExpanded = "false";
  opener.ariaLabel = `Step ${row.group.step}: show this answer`;
  const first = element("td");
  first.append(opener);
  const score = element("td");
  score.append(element("span", `score ${scoreClass(row.answer.score)}`, shown(row.answer.score)));
  line.append(
    first,
    score,
    element("td", "cut", oneLine(row.group.prompt)),
    element("td", "cut answer", oneLine(row.answer.text)),
    element("td", "muted", fateOf(row)),
    element("td", "n", shown(row.answer.advantage)),
    element("td", "n", String(row.answer.tokens)),
    element("td", "muted", versionsOf(row)),
  );
  line.addEventListener("click", () => toggle(line, row));
  return line;
}

function toggle(line, row) {
  const wasOpen = state.open === line;
  close();
  if (wasOpen) return;
  line.classList.add("open");
  line.querySelector("button").ariaExpanded = "true";
  line.after(drawDetail(row));
  state.open = line;
}

function close() {
  if (!state.open) return;
  state.open.classList.remove("open");
  state.open.querySelector("button").ariaExpanded = "false";
  state.open.nextSibling.remove();
  state.open = null;
}

// ---------------------------------------------------------------- one answer

function drawDetail(row) {
  const line = element("tr", "detail");
  const cell = element("td");
  cell.colSpan = COLUMNS.length;
  const show = (sibling) => cell.replaceChildren(detailOf(sibling, show));
  show(row);
  line.append(cell);
  return line;
}

function detailOf(row, show) {
  const { group, answer } = row;
  const grid = element("div", "grid");
  const texts = element("div");
  texts.append(...block("Prompt", group.prompt), ...answerBlock(answer));
  const why = element("div");
  why.append(...block("Target", group.target));
  if (answer.detail) why.append(...block("Why this score", answer.detail));
  why.append(element("h4", "", "Score"), pairsTable([["score", shown(answer.score)], ...parts(answer)]));
  why.append(element("h4", "", "Made"), pairsTable(made(row)));
  why.append(element("h4", "", `All ${group.answers.length} answers to this task`), siblings(row, show));
  grid.append(texts, why);
  return grid;
}

function block(title, text) {
  return [element("h4", "", title), element("pre", "", text)];
}

// What the learner did with a token, in the order of the log's fates.
const FATES = {
  trained: "trained",
  no_advantage: "no weight: nothing to learn",
  bounded: "at the kernel's bounds",
  corrected: "sampler and learner disagree",
  masked: "masked by the algorithm",
  unusable: "log-probability not finite",
  stale: "older than max_staleness",
  truncated: "of a truncated answer",
  skipped: "update left out",
  read: "read, not sampled",
};

function answerBlock(answer) {
  if (!answer.fates) return block("Answer", answer.text || "(nothing)");
  const pre = element("pre");
  const counts = {};
  for (const [text, fate, tokens] of answer.fates) {
    const name = fate ?? "read";
    counts[name] = (counts[name] ?? 0) + tokens;
    const stretch = element("span", `fate ${name}`, text ?? answer.text);
    stretch.title = FATES[name];
    pre.append(stretch);
  }
  const legend = element("ul", "fates");
  for (const name of Object.keys(FATES).filter((name) => counts[name])) {
    const entry = element("li");
    entry.append(element("i", `fate ${name}`), element("span", "", FATES[name]), element("b", "", `${counts[name]}`));
    legend.append(entry);
  }
  return [element("h4", "", "Answer, by what the learner did with each token"), pre, legend];
}

function parts(answer) {
  return Object.entries(answer.parts).map(([name, value]) => [name, shown(value)]);
}

function made(row) {
  const { group, answer } = row;
  return [
    ["fate", fateOf(row)],
    ["outcome", words(answer.outcome ?? "not scored")],
    ["advantage", shown(answer.advantage)],
    ["finish", answer.finish],
    ["tokens", String(answer.tokens)],
    ["policy versions", versionsOf(row)],
    ["generated in", `${shown(answer.generateS)} s`],
    ["scored in", `${shown(answer.scoreS)} s`],
    ["group", String(group.id)],
    ["task", group.task],
  ];
}

function pairsTable(pairs) {
  const table = element("table");
  for (const [name, value] of pairs) {
    const line = element("tr");
    line.append(element("td", "muted", name), element("td", "", value));
    table.append(line);
  }
  return table;
}

function siblings({ group, index }, show) {
  const list = element("div", "siblings");
  group.answers.forEach((answer, i) => {
    const button = element("button", `score ${scoreClass(answer.score)}`, shown(answer.score));
    button.type = "button";
    if (i === index) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => show({ group, answer, index: i }));
    list.append(button);
  });
  return list;
}

// ---------------------------------------------------------------- before and after

function learned() {
  const heldOut = groups.filter((group) => group.heldOut && group.answers[0].score !== null);
  const steps = heldOut.map((group) => group.step);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const before = new Map(heldOut.filter((group) => group.step === first).map((group) => [group.task, group]));
  return heldOut
    .filter((group) => group.step === last && last > first)
    .map((group) => [before.get(group.task), group])
    .filter(([was, is]) => was && was.answers[0].score < 1 && is.answers[0].score >= 1)
    .slice(0, 2);
}

function drawLearned() {
  const pairs = learned();
  byId("examples").hidden = pairs.length === 0;
  for (const [was, is] of pairs) {
    const card = element("article", "pairing");
    const both = element("div");
    for (const group of [was, is]) {
      const side = element("div");
      const title = element("h3", "", group.step === 0 ? "Before training" : `After step ${group.step}`);
      const { score, text } = group.answers[0];
      title.append(element("span", `score ${scoreClass(score)}`, shown(score)));
      side.append(title, element("pre", "", text.slice(0, 4000)));
      both.append(side);
    }
    card.append(element("pre", "", is.prompt.slice(0, 4000)), both);
    byId("pairs").append(card);
  }
}

// ---------------------------------------------------------------- begin

function addOptions(id, values, text = String) {
  for (const value of new Set(values)) {
    const option = element("option", "", text(value));
    option.value = value;
    byId(id).append(option);
  }
}

if (rows.length > 0) {
  addOptions("step", rows.map((row) => row.group.step).sort((a, b) => a - b));
  addOptions("fate", rows.map(fateOf).sort());
  for (const id of ["search", "step", "fate", "least", "most"]) byId(id).addEventListener("input", update);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("back").addEventListener("click", () => { state.page -= 1; drawPage(); });
  byId("next").addEventListener("click", () => { state.page += 1; drawPage(); });
  byId("filters").hidden = byId("table").hidden = false;
  update();
  drawLearned();
}

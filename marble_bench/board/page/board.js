const STATE = { sort: null, down: true, all: false, published: true, words: "", set: DATA.asked };

function columnsShown() {
  const set = SETS.get(STATE.set);
  if (!set) return MEAN ? [MEAN, ...(STATE.all ? COLUMNS : LEAD)] : STATE.all ? COLUMNS : LEAD;
  const counted = new Set(Object.values(set.tasks).flat());
  const columns = COLUMNS.filter((column) => counted.has(column.id));
  return set.mean ? [meanOf(set.name), ...columns] : columns;
}

/* A set is read best first, where it has a mean. */
function chooseSet(name) {
  const set = SETS.get(name);
  STATE.set = name; STATE.sort = set && set.mean ? meanOf(name) : null; STATE.down = true;
}

/* Of how many tasks a row has all that counts: of the set, else of the board. */
function coverage(row) {
  const set = SETS.get(STATE.set);
  if (!set) return row.covers;
  const tasks = Object.values(set.tasks);
  return [tasks.filter((columns) => columns.every((id) => row.cells[id])).length, tasks.length];
}

function sorted(rows) {
  const column = STATE.sort;
  if (!column) return rows;
  const sign = STATE.down ? -1 : 1;
  return [...rows].sort((a, b) => {
    if (column === "model") return -sign * labelOf(a).localeCompare(labelOf(b)) * -1;
    const [one, other] = [cellOf(a, column), cellOf(b, column)];
    if (!one || !other) return one ? -1 : other ? 1 : 0;  // what is not known stays below
    return sign * (one.v - other.v);
  });
}

function scoreCell(row, column, range) {
  const cell = cellOf(row, column);
  const where = { "data-row": row.id, "data-column": column.id };
  if (!cell) return h("td", where, h("span", { class: "live" }, "no score"));
  const marks = (cell.borrowed ? "°" : "") + (cell.why_not && !DATA.mini ? "*" : "") + (cell.contaminated ? "†" : "") + (cell.impossible ? "‡" : "");
  const parts = [
    h("span", { class: "score" }, cell.t), marks && h("span", { class: "marks" }, marks),
    cell.ties && h("span", { class: "ties", title: "tie group" }, cell.ties),
  ];
  if (row.kind === "published" && cell.ci) parts.push(h("span", { class: "ci size" }, `${cell.ci_t[0]} to ${cell.ci_t[1]}`));
  if (row.kind === "measured" && cell.ci && range) {
    const place = (value) => `${(100 * (value - range[0])) / (range[1] - range[0])}%`;
    parts.push(h("span", { class: "ci" }, `${cell.ci_t[0]} to ${cell.ci_t[1]}`));
    const width = `${(100 * (cell.ci[1] - cell.ci[0])) / (range[1] - range[0])}%`;
    parts.push(h("span", { class: "bar", "aria-hidden": "true" },
      h("i", { style: `left:${place(cell.ci[0])};width:${width}` }), h("b", { style: `left:${place(cell.v)}` })));
  }
  const leads = cell.ties && cell.ties.includes("a") && cell.rank === 1;
  const title = [cell.basis, cell.ci && `95 %: ${cell.ci_t[0]} to ${cell.ci_t[1]}`, cell.sd_t && `± ${cell.sd_t} over seeds`, cell.rank && `rank ${cell.rank}`,
    cell.contaminated && `trained on ${cell.contaminated}`, cell.why_not && cell.why_not.join(", ")].filter(Boolean).join("; ");
  const record = cell.record && !column.set;
  const body = record
    ? h("button", { type: "button", class: "cell", onclick: () => openDetail(cell.record),
        "aria-label": `${labelOf(row)}, ${column.task} ${column.short}: ${cell.t}${cell.ci ? `, ${cell.ci_t[0]} to ${cell.ci_t[1]}` : ""}. Open the record` }, parts)
    : parts;
  return h("td", { ...where, title, class: leads ? "lead" : null }, body);
}

function headCell(column) {
  const key = column === "model" ? "model" : column;
  const current = STATE.sort === key || (STATE.sort && key !== "model" && STATE.sort.id === key.id);
  const direction = current ? (STATE.down ? "descending" : "ascending") : "none";
  const texts = column === "model" ? ["Model", h("span", {}, "source")]
    : [column.task, h("span", {}, `${column.short} ${column.unit}`)];
  return h("th", { scope: "col", class: column === "model" ? "row sort" : "sort", "aria-sort": direction, title: column.asks || null },
    h("button", { type: "button", onclick: () => sortBy(key) }, texts));
}

function sortBy(key) {
  const same = STATE.sort === key || (STATE.sort && key !== "model" && STATE.sort.id === key.id);
  STATE.down = same ? !STATE.down : key !== "model";
  STATE.sort = key;
  drawBoard();
  const name = key === "model" ? "model" : `${key.task} ${key.short}`;
  $("board-live").textContent = `Sorted by ${name}, ${STATE.down ? "descending" : "ascending"}`;
  const buttons = [...document.querySelectorAll("#board-table thead th button")];
  const at = key === "model" ? 0 : 1 + columnsShown().findIndex((column) => column.id === key.id);
  if (buttons[at]) buttons[at].focus();
}

function drawBoard() {
  const columns = columnsShown();
  const ranges = new Map(columns.map((column) => [column.id, domain([column])]));
  const words = STATE.words.toLowerCase();
  const has = (row) => !SETS.has(STATE.set) || columns.some((column) => cellOf(row, column));
  const rows = sorted(ROWS.filter((row) => (STATE.published || row.kind === "measured") && has(row) && labelOf(row).toLowerCase().includes(words)));
  const floors = DATA.rows.filter((row) => row.kind === "floor");
  const line = (row, index) => h("tr", { class: `${row.kind}${row.kind === "floor" && index === 0 ? " first" : ""}` },
    h("th", { scope: "row", class: "row" }, h("span", { class: "name" }, labelOf(row)),
      h("span", { class: "tag" }, sourceOf(row) + covered(row.kind === "floor" ? null : coverage(row)))),
    columns.map((column) => scoreCell(row, column, ranges.get(column.id))));
  $("board-table").replaceChildren(h("table", { "aria-describedby": "board-key" },
    h("thead", {}, h("tr", {}, headCell("model"), columns.map(headCell))),
    h("tbody", {}, rows.map(line)), h("tbody", {}, floors.map(line))));
  const set = SETS.get(STATE.set);
  $("board-set").textContent = !set ? "" : `Task set ${set.name}, version ${set.version}. ${set.title}: ${Object.keys(set.tasks).length} tasks. ` +
    (set.mean ? `The mean is over all of them, after averaging the scores of one task; only rows that have all show it. Source: ${set.source}.` : `${set.no_mean}.`.replace(/^no/, "No"));
}
const covered = (counts) => (counts && counts[1] > 1 ? `, ${counts[0]} of ${counts[1]} tasks` : "");

function boardControls() {
  const box = (label, key) => h("label", {}, h("input", { type: "checkbox", checked: STATE[key],
    onchange: (event) => { STATE[key] = event.target.checked; drawBoard(); } }), label);
  const controls = [h("label", {}, "Models", h("input", { type: "search", placeholder: "part of a name",
    oninput: (event) => { STATE.words = event.target.value; drawBoard(); } }))];
  if (SETS.size) controls.push(select("Task set", [...(DATA.asked ? [] : [["", "all tasks"]]), ...[...SETS.keys()].map((name) => [name, name])], STATE.set || "",
    (value) => { chooseSet(value); drawBoard(); }));
  if (COLUMNS.length > LEAD.length) controls.push(box("All scores", "all"));
  if (ROWS.some((row) => row.kind === "published") && ROWS.some((row) => row.kind === "measured")) controls.push(box("Published rows", "published"));
  $("board-controls").append(...controls);
  const key = ["Choose a heading to sort."];
  if (ROWS.some((row) => row.kind === "measured")) key.push("Choose a measured score to open its record. Small letters: two records that share one in a column cannot be told apart.");
  if (ROWS.some((row) => row.kind === "published" && COLUMNS.some((column) => (cellOf(row, column) || {}).ci))) key.push("Intervals of published scores, in italics, follow from the size of the test split alone.");
  $("board-key").textContent = key.join(" ");
}

/* A board of its own below the main one, which is neither sorted nor mixed with it. all: every score, not each task's main one. */
function staticTable(board, all) {
  const scores = board.tasks.flatMap((task) => task.columns.filter((column) => all || column.lead)
    .map((column) => ({ ...column, task: task.name, asks: task.asks })));
  const columns = board.own ? [meanOf(board.own), ...scores] : scores;
  const name = (row) => (row.weights && board.rows.filter((other) => other.model === row.model && other.mark === row.mark).length > 1 ? `${row.model} (${row.weights})` : row.model);
  return h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "row" }, "Model", h("span", {}, "source")), columns.map((column) =>
      h("th", { scope: "col", title: column.asks || null }, column.task, h("span", {}, `${column.short} ${column.unit}`))))),
    h("tbody", {}, board.rows.map((row) => h("tr", { class: row.kind },
      h("th", { scope: "row", class: "row" }, h("span", { class: "name" }, name(row)),
        h("span", { class: "tag" }, sourceOf(row) + covered(row.covers))),
      columns.map((column) => scoreCell(row, column, null))))));
}

/* Of a board of miniatures: the published rows, in a table of their own. */
function drawPrinted() {
  if (!DATA.papers) return;
  $("printed").hidden = false;
  $("printed-table").append(staticTable(DATA.papers, false));
}

/* The boards of other protocols; then the papers whose rules the suite does not run, each in a table that says so. */
function drawBeside() {
  for (const [place, boards] of [["others", DATA.beside.filter((board) => !board.apart)], ["apart", DATA.beside.filter((board) => board.apart)]]) {
    if (!boards.length) continue;
    $(place).hidden = false;
    for (const board of boards) {
      const id = `${place}-${board.protocol}`.replace(/[^A-Za-z0-9-]/g, "-");
      $(place).append(h("h3", { id }, `Protocol ${board.protocol}`),
        board.apart ? h("p", { class: "say" }, `Not run by this suite: ${board.apart}.`) : "",
        h("div", { class: "scroll beside", role: "region", "aria-labelledby": id, tabindex: "0" }, staticTable(board, true)));
    }
  }
}

function drawPapers() {
  const found = ROWS.flatMap((row) => COLUMNS.flatMap((column) => ((cellOf(row, column) || {}).against || []).map((each) => ({ row, column, each }))));
  if (!found.length) return;
  $("papers").hidden = false;
  const words = { inside: "inside the interval", above: "measured is above", below: "measured is below", "no interval": "no interval" };
  $("papers-table").append(h("table", {},
    h("thead", {}, h("tr", {}, ["Model", "Task", "Score", "Measured", "95 %", "Published", "By", "Difference", "Verdict"].map((name, index) =>
      h("th", { scope: "col", class: index < 3 || index === 8 ? "text" : null }, name)))),
    h("tbody", {}, found.map(({ row, column, each }) => {
      const cell = cellOf(row, column);
      return h("tr", { class: "measured" }, h("th", { scope: "row", class: "row" }, labelOf(row)), h("td", { class: "text" }, column.task),
        h("td", { class: "text" }, column.short), h("td", {}, cell.t), h("td", {}, cell.ci_t ? cell.ci_t.join(" to ") : ""),
        h("td", {}, each.t), h("td", {}, each.mark), h("td", {}, each.d_t), h("td", { class: `text verdict-${each.verdict}` }, words[each.verdict]));
    }))));
}

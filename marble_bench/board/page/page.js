function theme(choice) {
  if (choice === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.setAttribute("data-theme", choice);
  for (const button of document.querySelectorAll("[data-theme-choice]")) button.setAttribute("aria-pressed", String(button.dataset.themeChoice === choice));
  if (ATLAS.row) drawAtlas();  // its ink depends on the colours
}

function reading() {
  const measured = ROWS.some((row) => row.kind === "measured"), list = [];
  if (measured) {
    list.push(["Score", "Mean over seeds of the probe that validation chose, on the test split, which is read once. Percent, or decibels."],
      ["Interval", "95 %, over test clips; clips of one recording go together. A bootstrap’s (BCa), of average precision a jackknife’s, which takes off the bias of few clips, so that the score can be at its upper end. The bar shows it on the column’s range."],
      ["Small letters", "Tie groups. Two records that share a letter in a column cannot be told apart by a paired test on the same clips, corrected for all pairs of the column (Holm, 5 %)."],
      ["Floors", "trivial: the best constant answer made from training labels. random: answers made by chance."]);
  }
  if (DATA.sets.some((set) => set.mean)) list.push(["Mean", "Over the tasks of a named set, after averaging the several scores of one task, decibels taken as they are. Only rows that have every task of the set have one, and only sets whose source prints a mean."]);
  if (DATA.papers || ROWS.some((row) => row.kind === "published")) list.push(["Published rows", "Printed by papers, without predictions: they carry no ties. Where the size of the test split allows one, an interval is below the score in italics; its tooltip says what it rests on."]);
  const any = (key) => [DATA, DATA.papers, ...DATA.beside].flatMap((board) => (board ? board.rows : [])).some((row) => Object.values(row.cells).some((cell) => cell[key]));
  if (any("borrowed")) list.push(["°", "That source took the number from another paper."]);
  if (any("contaminated")) list.push(["†", "The model was trained on the corpus that this task tests on."]);
  if (any("impossible")) list.push(["‡", "No number of test clips gives this score, so it was measured in another way: other clips, a mean, an error. It has no interval."]);
  if (!DATA.mini && any("why_not")) list.push(["*", "Not comparable; the record says why."]);
  for (const [mark, citation] of Object.entries(DATA.sources)) list.push([`published, ${mark}`, citation]);
  $("read-list").append(...list.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
}

/* What the address asks for: a theme, a record; also of a page that is open already. */
function asked() {
  const words = new URLSearchParams(location.hash.slice(1));
  if (["auto", "light", "dark"].includes(words.get("theme"))) theme(words.get("theme"));
  if (words.get("record")) openDetail(DATA.records.find((record) => record.id.endsWith(words.get("record")))?.id);
}

function start() {
  const counts = ["measured", "published"].map((kind) => [kind, ROWS.filter((row) => row.kind === kind).length]).filter(([, count]) => count);
  $("lead").textContent = `Protocol ${DATA.protocol}: ${DATA.tasks.length} task${DATA.tasks.length > 1 ? "s" : ""}, ` +
    counts.map(([kind, count]) => `${count} ${kind} row${count > 1 ? "s" : ""}`).join(" and ") +
    `. Every number comes from a record or a paper; nothing is filled in where nothing is known.`;
  $("mini").hidden = !DATA.mini;
  boardControls(); drawBoard(); drawPrinted(); drawPapers(); drawBeside(); atlas(); profile(); cost(); few(); reading();
  $("jump").append(...[...document.querySelectorAll("main section")].filter((section) => !section.hidden)
    .map((section) => h("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  $("foot").textContent = `Made by marble-bench ${DATA.version} from ${DATA.records.length} record${DATA.records.length === 1 ? "" : "s"}. One file, no network.`;
  for (const button of document.querySelectorAll("[data-theme-choice]")) button.addEventListener("click", () => theme(button.dataset.themeChoice));
  $("detail").addEventListener("click", (event) => { if (event.target === $("detail")) $("detail").close(); });
  addEventListener("resize", () => { drawProfile(); if (COST.x) drawCost(); if (FEW.task) drawFew(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (ATLAS.row) drawAtlas(); });
  addEventListener("hashchange", asked);
  asked();
  document.documentElement.dataset.ready = "yes";
}
start();

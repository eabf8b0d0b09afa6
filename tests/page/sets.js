// What a reader sees who chooses task sets, and what stands below the board.
const out = {};
const box = [...document.querySelectorAll("#board-controls label")].find((n) => n.textContent.startsWith("Task set")).querySelector("select");
out.choices = [...box.options].map((n) => n.value);
const look = (name) => {
  box.value = name; box.dispatchEvent(new Event("change"));
  return {
    heads: [...document.querySelectorAll("#board-table thead th button")].map((n) => n.textContent),
    rows: [...document.querySelectorAll("#board-table tbody:first-of-type tr")].map((n) => [n.querySelector(".name").textContent, n.querySelector(".tag").textContent]),
    means: Object.fromEntries([...document.querySelectorAll("#board-table td[data-column=mean]")].filter((n) => n.querySelector(".score"))
      .map((n) => [n.dataset.row, n.querySelector(".score").textContent])),
    says: document.getElementById("board-set").textContent,
  };
};
out.sets = Object.fromEntries(out.choices.map((name) => [name, look(name)]));
const tables = (place) => [...document.querySelectorAll(`#${place} h3`)].map((n) => {
  const node = document.querySelector(`[aria-labelledby=${n.id}]`);
  return { title: n.textContent, says: n.nextElementSibling.textContent, buttons: node.querySelectorAll("button").length,
    cells: [...node.querySelectorAll("td")].filter((each) => each.querySelector(".score"))
      .map((each) => [each.dataset.row, each.dataset.column, each.querySelector(".score").textContent]) };
});
out.others = tables("others"); out.apart = tables("apart");
const report = document.createElement("pre"); report.id = "report"; report.textContent = JSON.stringify(out); document.body.append(report);

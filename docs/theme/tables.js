// Every table of the documentation can be sorted: the head of a column is a button, which reverses the order.
function makeSortable(table) {
  const heads = [...table.querySelectorAll("thead th")], body = table.tBodies[0];
  if (!body || body.rows.length < 3) return;
  heads.forEach((head, at) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button"), text = (row) => (row.cells[at] ? row.cells[at].textContent.trim() : "");
    // "+.05", "1,234" and ".5 [.4, .6]" are sorted by the number at their beginning.
    const number = (row) => parseFloat(text(row).replace(/^[+±<]/, "").replace(/(\d),(?=\d{3})/g, "$1"));
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1, rows = [...body.rows];
      const numeric = rows.filter((row) => !Number.isNaN(number(row))).length * 2 > rows.length;
      const compare = (a, b) => (numeric ? (Number.isNaN(number(a)) ? 1 : Number.isNaN(number(b)) ? -1 : sign * (number(a) - number(b)))
        : sign * text(a).localeCompare(text(b), undefined, { numeric: true }));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...rows.sort(compare));
    });
  });
}
document.querySelectorAll(".md-typeset table:not([class])").forEach(makeSortable);

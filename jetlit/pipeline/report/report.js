// Sorts a table by the column whose title is clicked: numbers by value ("12.3k" is 12,300), dashes last.
const factors = { "": 1, k: 1e3, M: 1e6, B: 1e9, "%": 0.01 };

function key(row, column) {
  const text = row.cells[column].textContent.trim();
  const found = /^([+-]?[\d.]+(?:e[+-]?\d+)?)([kMB%]?)$/.exec(text.replaceAll(",", ""));
  return { text, number: found ? Number(found[1]) * factors[found[2]] : NaN, missing: text === "-" || text === "" };
}

function compare(a, b, sign) {
  if (a.missing || b.missing) return a.missing - b.missing;
  const numeric = !Number.isNaN(a.number) && !Number.isNaN(b.number);
  return sign * (numeric ? a.number - b.number : a.text.localeCompare(b.text, "en", { numeric: true }));
}

function sort(table, column) {
  const titles = [...table.tHead.rows[0].cells];
  const descending = titles[column].getAttribute("aria-sort") === "ascending";
  titles.forEach((title) => title.removeAttribute("aria-sort"));
  titles[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: key(row, column) }));
  rows.sort((a, b) => compare(a.key, b.key, descending ? -1 : 1));
  body.append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table")) {
  const frame = document.createElement("div"); // long tables scroll under their titles
  frame.className = "table";
  table.replaceWith(frame);
  frame.append(table);
  [...table.tHead.rows[0].cells].forEach((title, column) => {
    title.tabIndex = 0;
    title.addEventListener("click", () => sort(table, column));
    title.addEventListener("keydown", (event) => event.key === "Enter" && sort(table, column));
  });
}

"use strict";
// Builds the table of configurations from the page's JSON island; sorts, filters and shows more.
(function () {
  const data = JSON.parse(document.getElementById("rows").textContent);
  const place = document.getElementById("rows-table");
  const filter = document.getElementById("filter");
  const more = document.getElementById("more");
  const count = document.getElementById("count");
  const FIRST = 200; // rows shown at once: ten thousand take seconds to lay out
  let shown = FIRST;
  let sorted = 0;
  let down = false;

  function keys(column) {
    return column.value || column.text;
  }

  function order() {
    const wanted = filter.value.toLowerCase();
    const texts = data.columns.filter((each) => ["configuration", "tags"].includes(each.head));
    const rows = [];
    for (let row = 0; row < data.count; row++) {
      if (texts.some((each) => each.text[row].toLowerCase().includes(wanted))) rows.push(row);
    }
    const values = keys(data.columns[sorted]);
    const sign = down ? -1 : 1;
    return rows.sort(function (left, right) {
      const a = values[left];
      const b = values[right];
      if (a === null || b === null) return (a === null) - (b === null) || left - right;
      return sign * (a < b ? -1 : a > b ? 1 : 0) || left - right;
    });
  }

  function cell(kind, text) {
    const made = document.createElement(kind);
    made.textContent = text;
    return made;
  }

  function draw() {
    const rows = order();
    const table = document.createElement("table");
    table.className = "sortable";
    const head = table.createTHead().insertRow();
    data.columns.forEach(function (column, at) {
      const made = cell("th", column.head || "★");
      made.scope = "col";
      if (at === sorted) made.setAttribute("aria-sort", down ? "descending" : "ascending");
      made.addEventListener("click", function () {
        down = at === sorted ? !down : false;
        sorted = at;
        draw();
      });
      head.append(made);
    });
    const body = table.createTBody();
    for (const row of rows.slice(0, shown)) {
      const line = body.insertRow();
      if (data.columns[0].text[row].includes("★")) line.className = "best";
      data.columns.forEach(function (column, at) {
        const made = cell("td", column.text[row]);
        if (at === 1) made.title = column.text[row];
        line.append(made);
      });
    }
    place.replaceChildren(table);
    const now = Math.min(shown, rows.length);
    count.textContent = now + " of " + rows.length + " shown";
    more.hidden = now === rows.length;
  }

  more.addEventListener("click", function () {
    shown = data.count;
    draw();
  });
  filter.addEventListener("input", draw);
  draw();
})();

"use strict";
// Draws every figure of the page's JSON island into the div of its name.
(function () {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = {
    displaylogo: false,
    responsive: true,
    // All the buttons there are: none that plotly brings along can send anything anywhere.
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    showSendToCloud: false,
    plotlyServerURL: "",
    toImageButtonOptions: { format: "svg" },
  };
  // One after the other, from the top, so that the page answers while the rest is drawn.
  const undrawn = Object.entries(figures);
  function drawNext() {
    if (!undrawn.length) return false;
    const [name, figure] = undrawn.shift();
    Plotly.newPlot(name, figure.data, figure.layout, config);
    return true;
  }
  (function drawOn() {
    if (drawNext()) setTimeout(drawOn, 0);
  })();

  // On paper every figure is as wide as the sheet's one column, whatever the window was.
  const PAPER_WIDTH = 640;
  window.addEventListener("beforeprint", function () {
    while (drawNext());
    for (const name of Object.keys(figures)) {
      Plotly.relayout(name, { autosize: false, width: PAPER_WIDTH });
    }
  });
  window.addEventListener("afterprint", function () {
    for (const name of Object.keys(figures)) {
      Plotly.relayout(name, { autosize: true, width: null });
    }
  });

  // Marks the section in view in the navigation.
  const links = new Map();
  for (const link of document.querySelectorAll("nav a")) {
    links.set(link.getAttribute("href").slice(1), link);
  }
  const watch = new IntersectionObserver(
    function (entries) {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        for (const link of links.values()) link.removeAttribute("aria-current");
        links.get(entry.target.id).setAttribute("aria-current", "true");
      }
    },
    { rootMargin: "-20% 0px -70% 0px" }
  );
  for (const id of links.keys()) watch.observe(document.getElementById(id));
})();

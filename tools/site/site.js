// Draws the stored figures of a page when they come into view. A browser keeps about 16 WebGL contexts, so only the last few 3D figures stay drawn.
(() => {
  const alive = [], limit = 8;
  const figure = (box) => JSON.parse(document.querySelector(`script[data-figure="${box.id}"]`).textContent);
  const draw = (box) => {
    if (box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    const { data, layout = {}, frames } = figure(box), fixed = layout.width;
    delete layout.width;
    Plotly.newPlot(box, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false, displayModeBar: false }).then(() => frames && Plotly.addFrames(box, frames));
    if (Object.keys(layout).some((k) => k.startsWith("scene")) || data.some((t) => t.type.endsWith("3d") || t.type === "isosurface" || t.type === "surface")) {
      alive.push(box);
      if (alive.length > limit) { const old = alive.shift(); Plotly.purge(old); delete old.dataset.drawn; watcher.unobserve(old); watcher.observe(old); }
    }
  };
  const watcher = new IntersectionObserver((seen) => seen.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)), { rootMargin: "400px" });
  document.querySelectorAll(".figure-live").forEach((box) => watcher.observe(box));
})();

"use strict";
(function () {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const wantsDark = window.matchMedia("(prefers-color-scheme: dark)");

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : wantsDark.matches;
  }

  // the charts are drawn on canvases, which no style sheet reaches
  function paint() {
    if (!window.Bokeh) return;
    const style = getComputedStyle(root);
    const of = (name) => style.getPropertyValue(name).trim();
    const text = of("--text"), soft = of("--soft"), line = of("--line"), card = of("--card");
    for (const doc of window.Bokeh.documents) {
      for (const model of doc._all_models.values()) {
        const has = (name) => name in model.properties;
        if (has("major_label_text_color")) {
          model.major_label_text_color = soft;
          model.axis_label_text_color = soft;
          model.axis_line_color = line;
          model.major_tick_line_color = line;
        } else if (has("grid_line_color")) {
          model.grid_line_color = model.grid_line_color === null ? null : line;
        } else if (has("label_text_color") && has("click_policy")) {
          model.label_text_color = text;
          model.background_fill_color = null;
          model.border_line_color = null;
          model.inactive_fill_color = card;
          model.inactive_fill_alpha = 0.7;
        }
      }
    }
  }

  const data = JSON.parse(document.getElementById("charts").textContent);
  if (data && window.Bokeh) {
    window.Bokeh.embed.embed_items(data.docs, data.items).then(paint);
  }
  wantsDark.addEventListener("change", paint);
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    paint();
  });
})();

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("mlgraph-data").textContent);
  const root = document.documentElement;
  const tip = document.querySelector(".tip");
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  let chosen = null;

  const axesOf = (element) => (element.dataset.axes || "").split(" ").filter(Boolean);

  // An axis is a family's place in the legend; both programs of a page share places.
  function choose(axis) {
    chosen = axis === chosen ? null : axis;
    document.body.classList.toggle("choosing", chosen !== null);
    for (const group of all(".box, .edge")) {
      group.classList.toggle("on", chosen !== null && axesOf(group).includes(chosen));
    }
    for (const piece of all("svg [data-axis], .tree [data-axis]")) piece.classList.toggle("on", piece.dataset.axis === chosen);
    for (const item of all(".legend li[data-axis]")) {
      const own = item.dataset.axis === chosen;
      item.classList.toggle("chosen", own);
      item.querySelector("button").setAttribute("aria-pressed", String(own));
    }
  }

  function show(key, x, y) {
    const told = data.tips[key];
    if (!told) return hide();
    tip.replaceChildren(...told.map(([kind, text]) => {
      const line = document.createElement(kind === "title" ? "b" : "div");
      if (kind === "source") line.className = "source";
      line.textContent = text;
      return line;
    }));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${Math.max(8, y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16)}px`;
  }

  // Boxes of a module stand out while the pointer is on it in the tree.
  function point(path) {
    for (const box of all(".box")) {
      const own = box.dataset.path || "";
      box.classList.toggle("pointed", path !== null && (own === path || own.startsWith(`${path}.`)));
    }
  }

  function hide() { tip.hidden = true; }

  function open(chain, from) {
    const card = all(".card").find((found) => found.dataset.part === chain);
    if (!card) return;
    card.open = true;
    card.scrollIntoView({ behavior: "smooth", block: "nearest", inline: "nearest" });
    card.classList.add("found");
    setTimeout(() => card.classList.remove("found"), 1200);
  }

  document.addEventListener("mousemove", (event) => {
    const group = event.target.closest(".box, .edge");
    if (group) show(group.dataset.key, event.clientX, event.clientY);
    else hide();
    const module = event.target.closest(".tree summary");
    point(module ? module.dataset.path : null);
  });
  document.addEventListener("focusin", (event) => {
    const group = event.target.closest(".box");
    if (!group) return hide();
    const place = group.getBoundingClientRect();
    show(group.dataset.key, place.right, place.top);
  });
  document.addEventListener("click", (event) => {
    const target = event.target;
    const action = target.closest("[data-do]");
    if (action) return actions[action.dataset.do](action);
    const item = target.closest(".legend li[data-axis]");
    if (item) return target.closest(".slots") ? undefined : choose(item.dataset.axis);
    const piece = target.closest("svg [data-axis], .tree [data-axis]");
    if (piece) return choose(piece.dataset.axis);
    const edge = target.closest(".edge");
    if (edge) return axesOf(edge).length ? choose(axesOf(edge)[0]) : undefined;
    const chain = target.closest(".box[data-part]");
    if (chain) return open(chain.dataset.part);
    if (chosen !== null && target.closest("svg")) choose(chosen);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { hide(); if (chosen !== null) choose(chosen); }
    const group = event.target.closest && event.target.closest(".box[data-part]");
    if (group && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); open(group.dataset.part); }
  });

  const actions = {
    sizes(button) {
      const on = document.body.classList.toggle("in-sizes");
      button.setAttribute("aria-pressed", String(on));
    },
    fold() {
      const cards = all(".card");
      const any = cards.some((card) => card.open);
      for (const card of cards) card.open = !any;
    },
    theme() {
      const dark = root.dataset.theme
        ? root.dataset.theme === "dark"
        : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    },
  };
})();

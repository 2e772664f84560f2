"use strict";
// The page is whole without this script: it adds the filter, the order, and opens the card that a link points to.
for (const room of document.querySelectorAll(".neurons")) {
  const tools = room.querySelector(".tools");
  const list = room.querySelector(".cards");
  const cards = [...list.children];
  if (cards.length < 2) continue;
  tools.hidden = false;
  const filter = tools.querySelector(".filter");
  const sort = tools.querySelector(".sort");
  const count = tools.querySelector(".count");
  const toggle = tools.querySelector(".toggle");
  const texts = new Map();

  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const card of cards) {
      if (!texts.has(card)) texts.set(card, card.textContent.toLowerCase());
      card.hidden = !texts.get(card).includes(wanted);
      if (!card.hidden) shown += 1;
    }
    count.textContent = wanted ? `${shown} of ${cards.length}` : "";
  });

  sort.addEventListener("change", () => {
    const key = sort.value;
    const sign = key === "place" ? 1 : -1;
    cards.sort((a, b) => sign * (a.dataset[key] - b.dataset[key]) || a.dataset.place - b.dataset.place);
    list.append(...cards);
  });

  toggle.addEventListener("click", () => {
    const open = toggle.textContent === "Open all";
    for (const card of cards) if (!card.hidden) card.open = open;
    toggle.textContent = open ? "Close all" : "Open all";
  });
}

function openTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
openTarget();

// An opened card puts its name into the address, so that the address can be passed on.
for (const card of document.querySelectorAll("details.card")) {
  card.querySelector("summary").addEventListener("click", () => {
    if (!card.open) history.replaceState(null, "", `#${card.id}`);
  });
}

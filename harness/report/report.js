"use strict";
// The page works without this script, except for the list of neurons. The script unpacks a neuron when it is opened,
// filters and sorts the list, and opens the neuron that the address names. The unpacked HTML was rendered and escaped by
// the same templates as the rest of the page.
const OPEN_LIMIT = 50;  // neurons that "Open all" opens: thousands of tables would be slow

/** Return the HTML fragments in one line written by harness/report/packed.py. */
async function unpack(line) {
  const bytes = Uint8Array.from(atob(line), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(plain).json();
}

/** Return the visible text of an HTML fragment in lower case, for the search. */
function textOf(html) {
  const letters = { amp: "&", lt: "<", gt: ">", "#34": '"', "#39": "'" };
  return html.replace(/<[^>]*>/g, "").replace(/&(amp|lt|gt|#34|#39);/g, (_, name) => letters[name]).toLowerCase();
}

/** Set up one list of neurons; return functions that open a card and report a missing one. */
function neuronList(section) {
  const form = section.querySelector(".tools");
  const list = section.querySelector(".cards");
  const packed = section.querySelector(".packed");
  const cards = [...list.children];
  const lines = packed.textContent.trim().split("\n");
  const perLine = Number(packed.dataset.together);
  const [search, sort, toggle, count] = [".filter", ".sort", ".toggle", ".count"].map((name) => form.querySelector(name));
  const facets = [...form.querySelectorAll("[data-facet]")];
  const least = [...form.querySelectorAll("[data-least]")];
  const unpacked = new Map();
  let texts = null;
  let searches = 0;

  function fragments(line) {
    if (!unpacked.has(line)) unpacked.set(line, unpack(lines[line]));
    if (unpacked.size > 16) unpacked.delete(unpacked.keys().next().value);
    return unpacked.get(line);
  }

  async function fill(card) {
    const inside = card.querySelector(".inside");
    const index = Number(card.dataset.place);
    if (inside.firstChild) return;
    try {
      const html = (await fragments(Math.floor(index / perLine)))[index % perLine];
      if (!inside.firstChild) inside.innerHTML = html;
    } catch (error) {
      inside.textContent = `This browser cannot unpack the neuron: ${error}`;
    }
  }

  async function readAll() {
    const all = await Promise.all(lines.map(async (line) => (await unpack(line)).map(textOf)));
    return all.flat();
  }

  async function filter() {
    const current = ++searches;
    const wanted = search.value.trim().toLowerCase();
    if (wanted && !texts) {
      count.textContent = "reading …";
      texts = await readAll();
      if (current !== searches) return;  // a newer search has started
    }
    const fits = (card) =>
      facets.every((facet) => facet.value === "*" || card.dataset[facet.dataset.facet] === facet.value) &&
      least.every((input) => input.value === "" || Number(card.dataset[input.dataset.least] ?? NaN) >= Number(input.value)) &&
      (!wanted || texts[card.dataset.place].includes(wanted));
    for (const card of cards) card.hidden = !fits(card);
    showCount();
  }

  function showCount(more = "") {
    const shown = cards.filter((card) => !card.hidden).length;
    count.textContent = `${shown === cards.length ? shown : `${shown} of ${cards.length}`} neurons${more}`;
  }

  function order() {
    const key = sort.value;
    const value = (card) => {
      if (key === "kind" || key === "best") return card.dataset[key] || "\uffff";
      const number = Number.parseFloat(card.dataset[key] ?? card.dataset.shares?.split(" ")[key]);
      return Number.isNaN(number) ? Infinity : key === "place" ? number : -number;  // highest first
    };
    const values = new Map(cards.map((card) => [card, value(card)]));
    const sorted = [...cards].sort((a, b) => {
      const [x, y] = [values.get(a), values.get(b)];
      return (x < y ? -1 : x > y ? 1 : 0) || a.dataset.place - b.dataset.place;
    });
    list.append(...sorted);
  }

  for (const facet of facets) {
    const name = facet.dataset.facet;
    const values = [...new Set(cards.map((card) => card.dataset[name]).filter((value) => value !== undefined))];
    values.sort((a, b) => a - b || (a < b ? -1 : 1));
    for (const value of values) facet.append(new Option(value || "tied", value));
    facet.parentElement.hidden = values.length < 2;
  }
  for (const input of least) input.parentElement.hidden = !cards.some((card) => input.dataset.least in card.dataset);

  let pause = 0;
  search.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(filter, 150);
  });
  for (const input of [...facets, ...least]) input.addEventListener("input", filter);
  sort.addEventListener("input", order);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { filter(); order(); }));
  toggle.addEventListener("click", () => {
    const open = toggle.textContent === "Open all";
    const shown = [...list.children].filter((card) => !card.hidden);
    for (const card of open ? shown.slice(0, OPEN_LIMIT) : cards) card.open = open;
    toggle.textContent = open ? "Close all" : "Open all";
    showCount(open && shown.length > OPEN_LIMIT ? `, the first ${OPEN_LIMIT} opened` : "");
  });
  for (const card of cards) {
    card.addEventListener("toggle", () => { if (card.open) fill(card); });
    // An opened card puts its name into the address, so that the address links to it.
    card.querySelector("summary").addEventListener("click", () => {
      if (!card.open) history.replaceState(null, "", `#${card.id}`);
    });
  }
  section.querySelector(".no-script").remove();
  form.hidden = cards.length < 2;
  showCount();

  return {
    async open(card) {
      if (card.hidden) {  // the order stays, because a card that moves loses the focus
        search.value = "";
        for (const facet of facets) facet.value = "*";
        for (const input of least) input.value = "";
        await filter();
      }
      card.open = true;
      await fill(card);
      card.scrollIntoView();
      card.querySelector("summary").focus({ preventScroll: true });
    },
    missing(name) { count.textContent = `${name} is not among the neurons of this report`; },
  };
}

const lists = new Map(
  [...document.querySelectorAll(".neurons")].filter((one) => one.querySelector(".packed")).map((one) => [one, neuronList(one)]),
);

function openTarget() {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { return; }
  const target = document.getElementById(name);
  const own = lists.get(target?.closest(".neurons"));
  if (own && target.matches(".card")) own.open(target);
  if (!target && /^(r\d+-)?L\d+/.test(name)) {
    for (const [section, list] of lists) {
      list.missing(name);
      section.scrollIntoView();
    }
  }
}
addEventListener("hashchange", openTarget);
openTarget();

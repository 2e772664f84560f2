"use strict";
// The summary is whole without this script. It unpacks a neuron when it is opened, filters and sorts the list of neurons,
// and opens the one that a link points to. What is unpacked was escaped by the same templates as the rest of the page.
const AT_ONCE = 50;  // neurons that "Open all" opens: thousands of tables would make any browser slow

/** Return the pieces of HTML in one line of harness/report/packed.py. */
async function unpack(line) {
  const bytes = Uint8Array.from(atob(line), (letter) => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(plain).json();
}

/** Return what a reader sees of a piece of HTML, for the search. */
function textOf(html) {
  const letters = { amp: "&", lt: "<", gt: ">", "#34": '"', "#39": "'" };
  return html.replace(/<[^>]*>/g, "").replace(/&(amp|lt|gt|#34|#39);/g, (_, name) => letters[name]).toLowerCase();
}

/** Give life to one list of neurons; return what opens one of its cards. */
function neuronList(room) {
  const form = room.querySelector(".tools");
  const list = room.querySelector(".cards");
  const packed = room.querySelector(".packed");
  const cards = [...list.children];
  const lines = packed.textContent.trim().split("\n");
  const together = Number(packed.dataset.together);
  const [search, sort, toggle, count] = [".filter", ".sort", ".toggle", ".count"].map((name) => form.querySelector(name));
  const facets = [...form.querySelectorAll("[data-facet]")];
  const least = [...form.querySelectorAll("[data-least]")];
  const unpacked = new Map();
  let texts = null;
  let asked = 0;

  function pieces(line) {
    if (!unpacked.has(line)) unpacked.set(line, unpack(lines[line]));
    if (unpacked.size > 16) unpacked.delete(unpacked.keys().next().value);
    return unpacked.get(line);
  }

  async function fill(card) {
    const inside = card.querySelector(".inside");
    const place = Number(card.dataset.place);
    if (inside.firstChild) return;
    try {
      const html = (await pieces(Math.floor(place / together)))[place % together];
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
    const turn = ++asked;
    const wanted = search.value.trim().toLowerCase();
    if (wanted && !texts) {
      count.textContent = "reading …";
      texts = await readAll();
      if (turn !== asked) return;
    }
    const fits = (card) =>
      facets.every((facet) => facet.value === "*" || card.dataset[facet.dataset.facet] === facet.value) &&
      least.every((input) => input.value === "" || Number(card.dataset[input.dataset.least] ?? NaN) >= Number(input.value)) &&
      (!wanted || texts[card.dataset.place].includes(wanted));
    for (const card of cards) card.hidden = !fits(card);
    tell();
  }

  function tell(more = "") {
    const shown = cards.filter((card) => !card.hidden).length;
    count.textContent = `${shown === cards.length ? shown : `${shown} of ${cards.length}`} neurons${more}`;
  }

  function order() {
    const key = sort.value;
    const value = (card) => {
      if (key === "kind" || key === "best") return card.dataset[key] || "\uffff";
      const figure = Number.parseFloat(card.dataset[key] ?? card.dataset.shares?.split(" ")[key]);
      return Number.isNaN(figure) ? Infinity : key === "place" ? figure : -figure;  // the highest first
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
    for (const value of values) facet.append(new Option(value || "nobody alone", value));
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
    for (const card of open ? shown.slice(0, AT_ONCE) : cards) card.open = open;
    toggle.textContent = open ? "Close all" : "Open all";
    tell(open && shown.length > AT_ONCE ? `, the first ${AT_ONCE} opened` : "");
  });
  for (const card of cards) {
    card.addEventListener("toggle", () => { if (card.open) fill(card); });
    // An opened card puts its name into the address, so that the address can be passed on.
    card.querySelector("summary").addEventListener("click", () => {
      if (!card.open) history.replaceState(null, "", `#${card.id}`);
    });
  }
  room.querySelector(".no-script").remove();
  form.hidden = cards.length < 2;
  tell();

  return {
    async open(card) {
      if (card.hidden) {  // its order stays: a card that moves loses the focus
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

const rooms = new Map(
  [...document.querySelectorAll(".neurons")].filter((room) => room.querySelector(".packed")).map((room) => [room, neuronList(room)]),
);

function openTarget() {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { return; }
  const target = document.getElementById(name);
  const room = rooms.get(target?.closest(".neurons"));
  if (room && target.matches(".card")) room.open(target);
  if (!target && /^(r\d+-)?L\d+/.test(name)) {
    for (const [section, list] of rooms) {
      list.missing(name);
      section.scrollIntoView();
    }
  }
}
addEventListener("hashchange", openTarget);
openTarget();

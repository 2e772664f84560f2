"use strict";
// Shows one pair at a time, keeps the answers in the browser's storage, and saves them as JSON lines that the judge
// `human` reads. The key holds, for each pair, the fields of its line apart from the answer.
const key = JSON.parse(atob(document.getElementById("key").textContent));
const articles = [...document.querySelectorAll("article")];
const status = document.querySelector(".status");
const rater = document.getElementById("rater");
const storage = `labels ${document.body.dataset.page}`;
const KEYS = { 1: ["winner", "first"], 2: ["winner", "second"], 0: ["winner", "tie"], ArrowLeft: ["step", -1], ArrowRight: ["step", 1] };
let answers = {};  // place of the pair -> winner
let place = 0;

/** Return what the browser kept of an earlier visit; some browsers keep nothing for local files. */
function kept() {
  try {
    return JSON.parse(localStorage.getItem(storage)) ?? {};
  } catch {
    return {};
  }
}

function keep() {
  try {
    localStorage.setItem(storage, JSON.stringify({ answers, rater: rater.value }));
  } catch {
    status.dataset.unkept = "This browser does not keep your answers: save them before you close the page. ";
  }
}

function report() {
  const count = Object.keys(answers).length;
  status.textContent = `${status.dataset.unkept ?? ""}${count} of ${articles.length} pairs labelled.` +
    (count === articles.length ? " Save your labels." : "");
}

function show(next) {
  place = Math.max(0, Math.min(articles.length - 1, next));
  articles.forEach((article, number) => { article.hidden = number !== place; });
  const [first, second] = articles[place].querySelectorAll(".choice");
  first.classList.toggle("chosen", ["first", "tie"].includes(answers[place]));
  second.classList.toggle("chosen", ["second", "tie"].includes(answers[place]));
  document.querySelectorAll("[data-winner]").forEach((button) => {
    button.setAttribute("aria-pressed", String(button.dataset.winner === answers[place]));
  });
  report();
  articles[place].querySelector("h2").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function act([kind, value]) {
  if (kind === "winner") {
    answers[place] = value;
    keep();
  }
  show(place + (kind === "winner" ? 1 : value));
}

function save() {
  const name = rater.value.trim();
  if (!name) {
    status.textContent = "Enter your name first: it is saved with your labels.";
    rater.focus();
    return;
  }
  const lines = Object.entries(answers).map(([number, winner]) => JSON.stringify({ ...key[number], winner, rater: name }));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.map((line) => `${line}\n`).join("")], { type: "application/jsonl" }));
  link.download = `labels-${name.replace(/[^\p{L}\p{N}]+/gu, "-")}.jsonl`;
  link.click();
  URL.revokeObjectURL(link.href);
  status.textContent = `${lines.length} labels saved as ${link.download}.`;
}

document.addEventListener("keydown", (event) => {
  if (event.target === rater || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key in KEYS) act(KEYS[event.key]);
  else if (event.key === "s") save();
  else return;
  event.preventDefault();
});
document.querySelector(".bar").addEventListener("click", (event) => {
  const { winner, step, save: saves } = event.target.dataset;
  if (winner) act(["winner", winner]);
  else if (step) act(["step", Number(step)]);
  else if (saves !== undefined) save();
});
rater.addEventListener("input", () => { keep(); report(); });
const earlier = kept();
answers = earlier.answers ?? {};
rater.value = earlier.rater ?? "";
const open = articles.findIndex((_, number) => !(number in answers));
show(open < 0 ? 0 : open);

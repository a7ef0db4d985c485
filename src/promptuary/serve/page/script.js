// Picks tasks, asks them, and shows what they say. Everything that comes from the server is set as text, never as HTML.

const $ = id => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
const SHADES = ["#00204d", "#31446b", "#666970", "#958f78", "#cab969", "#ffe945"]; // cividis
const known = new Map(); // what the server said of each task
const picked = new Set();
let names = [];
let underWay = null;

// --- building pages --------------------------------------------------------------------------------------------------

function node(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(name, attributes = {}, ...children) {
  const made = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function tell(sentence, wrong = false) {
  $("status").textContent = sentence;
  $("status").className = wrong ? "wrong" : "";
}

// --- asking the server -----------------------------------------------------------------------------------------------

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (options.body) headers["Content-Type"] = "application/json";
  if ($("key").value) headers.Authorization = `Bearer ${$("key").value}`;
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) throw new Error(await sentence(answer));
  return answer;
}

async function sentence(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered with ${answer.status}.`;
  }
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    held += value;
    const whole = held.split("\n\n");
    held = whole.pop();
    for (const event of whole) {
      const data = event.slice("data: ".length);
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw new Error(found.error.message);
      yield found;
    }
  }
}

// --- tasks -----------------------------------------------------------------------------------------------------------

async function list() {
  try {
    const found = await (await ask("tasks")).json();
    names = [...found.tasks.map(task => task.name), ...(found.base ? ["base"] : [])];
    const count = found.tasks.length;
    $("backbone").textContent = `${count} ${count === 1 ? "task" : "tasks"} from one frozen ${found.backbone}`;
    show();
    tell("");
  } catch (error) {
    $("access").open = true;
    tell(error.message, true);
  }
}

function show() {
  const wanted = $("filter").value.toLowerCase();
  const found = names.filter(name => name.toLowerCase().includes(wanted));
  const lines = found.slice(0, 200).map(name => {
    const box = node("input", { type: "checkbox", value: name });
    box.checked = picked.has(name);
    box.addEventListener("change", () => pick(name, box.checked));
    const told = name === "base" ? "base (the model without a prompt)" : name;
    return node("li", {}, node("label", {}, box, told));
  });
  if (found.length > lines.length) lines.push(node("li", { class: "hint" }, `and ${found.length - lines.length} more`));
  if (!found.length) lines.push(node("li", { class: "hint" }, names.length ? "No such task." : "The store is empty."));
  $("tasks").replaceChildren(...lines);
}

async function pick(name, on) {
  on ? picked.add(name) : picked.delete(name);
  try {
    if (on) await learn(name);
    tell("");
  } catch (error) {
    picked.delete(name);
    show();
    tell(error.message, true);
  }
  const own = [...picked].map(each => known.get(each)).filter(Boolean);
  const pair = own.find(task => task.columns.length > 1);
  $("second").hidden = !pair;
  $("how").hidden = !own.some(task => task.writes);
  $("text-label").textContent = pair ? pair.columns[0] : "Text";
  if (pair) $("pair-label").textContent = pair.columns[1];
}

async function learn(name) {
  if (known.has(name)) return;
  const bare = { name, kind: "text", columns: ["text"], labels: [], writes: true, prompt: null };
  known.set(name, name === "base" ? bare : await (await ask(`tasks/${encodeURIComponent(name)}`)).json());
}

// --- answers ---------------------------------------------------------------------------------------------------------

async function submit(event) {
  event?.preventDefault();
  const tasks = [...picked].map(name => known.get(name)).filter(Boolean);
  if (!tasks.length) return tell("Pick a task first.", true);
  if (!$("text").value.trim()) return tell("Write a text first.", true);
  underWay?.abort();
  underWay = new AbortController();
  const { signal } = underWay;
  $("stop").hidden = false;
  $("go").disabled = true;
  tell("Asking …");
  const cards = new Map(tasks.map(task => [task.name, card(task)]));
  $("answers").replaceChildren(...cards.values());
  const began = performance.now();
  const read = tasks.filter(task => !task.writes);
  const work = tasks.filter(task => task.writes).map(task => write(task, cards.get(task.name), signal));
  if (read.length) work.push(predict(read, cards, signal));
  const done = await Promise.allSettled(work);
  if (underWay.signal !== signal) return; // asked anew meanwhile
  const failed = done.find(each => each.status === "rejected");
  $("stop").hidden = true;
  $("go").disabled = false;
  if (signal.aborted) return tell("Stopped.");
  if (failed) return tell(failed.reason.message, true);
  tell(`Answered in ${Math.round(performance.now() - began)} ms.`);
}

function card(task) {
  const title = node("h2", {}, task.name, node("small", {}, task.kind));
  const made = node("article", { "data-task": task.name }, title, node("div", { class: "answer" }));
  if (task.prompt) made.append(look(task.prompt));
  return made;
}

const answerOf = made => made.querySelector(".answer");

async function predict(tasks, cards, signal) {
  const rows = tasks.map(task => ({ task: task.name, ...row(task) }));
  const answer = await ask("predict", { method: "POST", body: JSON.stringify({ rows }), signal });
  for (const said of (await answer.json()).answers) {
    answerOf(cards.get(said.task)).replaceChildren(...told(said));
  }
}

function row(task) {
  if (task.columns.length === 1) return { text: $("text").value };
  return { fields: { [task.columns[0]]: $("text").value, [task.columns[1]]: $("pair").value } };
}

function told(said) {
  if (said.probabilities) return classes(said);
  if (Array.isArray(said.prediction)) return [tags(said.prediction)];
  return [node("p", { class: "said" }, said.prediction || "(nothing)")];
}

function classes(said) {
  const shares = Object.entries(said.probabilities).sort((a, b) => b[1] - a[1]);
  const lines = shares.slice(0, 12).flatMap(([name, share], place) => {
    const best = place === 0 ? "best" : "";
    const bar = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      drawn("rect", { width: 100 * share, height: 10 }));
    return [node("dt", { class: best }, name), node("dd", { class: best }, bar),
      node("dd", { class: "share" }, `${(100 * share).toFixed(1)} %`)];
  });
  const left = shares.length - 12;
  const more = left > 0 ? [node("p", { class: "hint" }, `and ${left} more classes`)] : [];
  return [node("p", { class: "said" }, String(said.label)), node("dl", { class: "classes" }, ...lines), ...more];
}

function tags(found) {
  const words = $("text").value.split(/\s+/).filter(Boolean);
  return node("ul", { class: "tagged" }, ...found.map((tag, i) =>
    node("li", { class: tag === null || tag === "O" ? "" : "entity" }, words[i] ?? "", node("small", {}, String(tag ?? "cut off")))));
}

async function write(task, made, signal) {
  const text = node("p", { class: "written writing", "aria-live": "polite" });
  answerOf(made).replaceChildren(text);
  const body = { model: task.name, prompt: $("text").value, stream: true, temperature: Number($("temperature").value) };
  if ($("limit").value) body.max_tokens = Number($("limit").value);
  try {
    const answer = await ask("v1/completions", { method: "POST", body: JSON.stringify(body), signal });
    for await (const part of events(answer)) {
      const piece = part.choices[0]?.text ?? "";
      text.append(text.textContent ? piece : piece.trimStart());
    }
  } finally {
    text.classList.remove("writing");
  }
}

// --- the prompt's picture --------------------------------------------------------------------------------------------

function look(prompt) {
  const count = prompt.soft_tokens;
  const numbers = (count * prompt.numbers_per_token).toLocaleString("en");
  const facts = [
    ["method", prompt.method], ["soft tokens", count], ["numbers", `${numbers} (${prompt.numbers_per_token.toLocaleString("en")} each)`],
    ["enters by", ENTERS[prompt.enters] ?? prompt.enters], ["start", prompt.init],
    ["validation", Object.entries(prompt.scores ?? {}).map(([name, value]) => `${name} ${short(value)}`).join(", ")],
  ].filter(([, value]) => value !== null && value !== undefined && value !== "");
  const table = node("table", {}, ...facts.map(([name, value]) => node("tr", {}, node("th", { scope: "row" }, name), node("td", {}, String(value)))));
  const parts = [node("summary", {}, "The prompt"), ...(count ? [picture(prompt)] : []), node("div", { class: "wide" }, table)];
  if (prompt.nearest) parts.push(nearest(prompt));
  return node("details", {}, ...parts);
}

const ENTERS = {
  Embeddings: "soft tokens beside the text", KeyValues: "soft keys and values in every layer",
  HiddenStates: "states in every layer", Late: "soft tokens in a middle layer",
};

const short = value => (typeof value === "number" ? Number(value.toPrecision(4)) : value);

function picture(prompt) {
  const deep = prompt.enters === "KeyValues" || prompt.enters === "HiddenStates";
  const count = Math.min(prompt.soft_tokens, deep ? 16 : 40);
  const layers = deep ? 4 : 1;
  const side = 14, step = 18, across = deep ? count : Math.min(count, 10);
  const width = across * step, height = Math.max(Math.ceil(count / across) * layers * step, 2 * step);
  const squares = [];
  for (let layer = 0; layer < layers; layer++) {
    for (let i = 0; i < count; i++) {
      const x = (i % across) * step, y = (layer + Math.floor(i / across)) * step;
      const square = drawn("rect", { x, y, width: side, height: side, rx: 4, fill: shade(prompt, i), opacity: 1 - 0.18 * layer });
      const words = prompt.nearest?.[i];
      if (words) square.append(drawn("title", {}, `soft token ${i}: ${words.map(([word]) => spaced(word)).join(" ")}`));
      squares.push(square);
    }
  }
  const box = drawn("rect", { class: "text", x: width + 6, y: 1, width: 110, height: height - 6, rx: 6 });
  const label = drawn("text", { x: width + 61, y: height / 2 + 1, "text-anchor": "middle" }, "the text");
  const left = prompt.soft_tokens > count ? `, of which ${count} are drawn` : "";
  const said = `${prompt.soft_tokens} soft tokens${left}: ${ENTERS[prompt.enters] ?? prompt.enters}`;
  const made = drawn("svg", { viewBox: `0 0 ${width + 118} ${height}`, role: "img", "aria-label": said }, ...squares, box, label);
  return node("figure", {}, made, node("figcaption", { class: "hint" }, said));
}

function shade(prompt, i) {
  const near = prompt.nearest?.[i]?.[0]?.[1];
  if (near === undefined) return "#56b4e9";
  return SHADES[Math.max(0, Math.min(SHADES.length - 1, Math.floor(near * SHADES.length)))];
}

function nearest(prompt) {
  const lines = prompt.nearest.map((words, i) => node("tr", {}, node("th", { scope: "row" }, String(i)),
    node("td", {}, words.slice(0, 4).map(([word, cosine]) => `${spaced(word)} ${cosine.toFixed(2)}`).join("   "))));
  const told = `By cosine; a random vector's nearest word has ${prompt.control_cosine.toFixed(2)}, and what is not clearly `
    + "above it says nothing. The lighter a square above, the nearer its word.";
  return node("details", {}, node("summary", {}, "Nearest words"), node("p", { class: "hint" }, told),
    node("div", { class: "wide" }, node("table", {}, ...lines)));
}

const spaced = word => word.replaceAll("Ġ", "␣").replaceAll("▁", "␣");

// --- begin -----------------------------------------------------------------------------------------------------------

$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value);
  list();
});
$("access-form").addEventListener("submit", event => event.preventDefault());
$("filter").addEventListener("input", show);
$("filter").addEventListener("keydown", event => event.key === "Enter" && event.preventDefault());
$("ask").addEventListener("submit", submit);
$("stop").addEventListener("click", () => underWay?.abort());
$("ask").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
});
list();

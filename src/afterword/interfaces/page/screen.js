// State of this tab, and the small things that touch the screen. HTML comes from the server, where every text was
// escaped; texts that come from elsewhere are set as text.
const root = element.querySelector(".aw");
const $ = (id) => root.querySelector("#aw-" + id);
const store = {
  get(name, otherwise) {
    try { return JSON.parse(localStorage.getItem("afterword." + name)) ?? otherwise; } catch { return otherwise; }
  },
  set(name, value) {
    try { localStorage.setItem("afterword." + name, JSON.stringify(value)); } catch { /* private mode: kept in this tab only */ }
  },
};
const browserLanguage = (navigator.language || "en").toLowerCase().startsWith("zh") ? "zh" : "en";
const state = {
  user: store.get("user", SETUP.user), chat: "", lang: store.get("lang", SETUP.language || browserLanguage),
  tab: "episodic", turns: 60, memories: 100, have: {}, streaming: null, live: null, pending: null, wish: null,
  editing: false,
};
const t = (name) => WORDS[state.lang][name] ?? name;
const chats = () => store.get("chats", {});
const newId = () => {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
};

function speak() {
  for (const e of root.querySelectorAll("[data-t]")) e.textContent = t(e.dataset.t);
  for (const e of root.querySelectorAll("[data-title]")) { e.title = t(e.dataset.title); e.setAttribute("aria-label", t(e.dataset.title)); }
  $("text").placeholder = t("placeholder");
  $("text").setAttribute("aria-label", t("placeholder"));
  document.documentElement.lang = state.lang === "zh" ? "zh-CN" : "en";
  $("user").textContent = state.user;
  $("initial").textContent = [...state.user.trim()][0]?.toUpperCase() ?? "?";
}

function paintTheme() {
  const wanted = store.get("theme", null);
  if (wanted) document.body.classList.toggle("dark", wanted === "dark");
}

const scroller = $("scroll");
let stuck = true; // the reader is at the end, so the end is kept in sight
scroller.addEventListener("scroll", () => {
  stuck = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
}, { passive: true });
const toEnd = () => { if (stuck) scroller.scrollTop = scroller.scrollHeight; };

function toast(text) {
  if ([...$("toasts").children].some((shown) => shown.textContent === text)) return;
  const note = document.createElement("div");
  note.textContent = text;
  $("toasts").append(note);
  setTimeout(() => note.remove(), 7000);
}

function growText() {
  const box = $("text");
  box.style.height = "auto";
  box.style.height = Math.min(box.scrollHeight, 180) + "px";
}

function showPart(name, html) {
  const place = $(name);
  const opened = new Set([...place.querySelectorAll("details[open]")].map((d) => d.dataset.why || d.dataset.memory));
  const known = new Set([...place.querySelectorAll("[data-key]")].map((e) => e.dataset.key));
  const first = !place.dataset.filled;
  place.innerHTML = html;
  place.dataset.filled = "yes";
  for (const d of place.querySelectorAll("details")) if (opened.has(d.dataset.why || d.dataset.memory)) d.open = true;
  if (name === "memories" && !first) {
    for (const e of place.querySelectorAll("[data-key]")) if (!known.has(e.dataset.key)) e.classList.add("fresh");
  }
  if (name === "runs") $("consolidate").disabled = Boolean(place.querySelector('[data-run="consolidate"]'));
}

function showStream() {
  const on = Boolean(state.streaming && state.streaming.chat === state.chat);
  $("streaming").hidden = !on;
  $("stop").hidden = !(on || state.live);
  $("send").hidden = on || Boolean(state.live);
  if (on) toEnd();
  else if (state.wish && !busy()) {
    setTimeout(state.wish, 30); // once Gradio has emptied the stream
    state.wish = null;
  }
}

function busy() { return Boolean(state.streaming || state.live); }

function showPending() {
  const box = $("pending");
  box.hidden = !state.pending || state.pending.chat !== state.chat;
  box.querySelector(".aw-body").textContent = state.pending?.text ?? "";
  if (state.pending) root.querySelector(".aw-welcome")?.remove();
}

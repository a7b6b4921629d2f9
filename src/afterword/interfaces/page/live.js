// Talks to the server: calls, the two streams, and the events that say that something changed.
const offset = () => -new Date().getTimezoneOffset();
const where = (more) => ({
  user: state.user, chat: state.chat, lang: state.lang, offset: offset(), tab: state.tab, turns: state.turns,
  memories: state.memories, ...more,
});

async function call(name, more) {
  try {
    const answer = await server.call(where({ ...more, do: name }));
    if (!answer || answer.detail) return { error: t("lost"), lost: true }; // Gradio's client swallows failed requests
    return answer;
  } catch {
    return { error: t("lost"), lost: true };
  }
}

// ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────
const EVERYTHING = ["turns", "memories", "jobs", "runs"];
const changed = new Set(); // what the next look is for: no other parts of the page are read for it
let looking = null;
let again = false;
let rested = 0; // when news may lead to the next look
let noticed = null;

// Wishes that come while a look is under way become one more look after it, so a burst of events costs two.
function refresh(news = EVERYTHING) {
  for (const one of news) changed.add(one);
  if (looking) { again = true; return looking; }
  looking = (async () => {
    do {
      again = false;
      const began = performance.now();
      await look();
      const took = performance.now() - began;
      rested = began + took + Math.min(2000, Math.max(600, 3 * took)); // a busy server is looked at less
      if (again) await new Promise((go) => setTimeout(go, 80));
    } while (again);
  })().finally(() => { looking = null; });
  return looking;
}

// News of work behind the replies comes in bursts: one look for all that comes within a moment. A look that is made
// meanwhile sees it too.
function notice({ data }) {
  for (const one of JSON.parse(data).what) changed.add(one);
  noticed ??= setTimeout(() => { noticed = null; if (changed.size) refresh([]); }, Math.max(0, rested - performance.now()));
}

async function look() {
  const asked = where({ have: state.have, news: [...changed] });
  changed.clear();
  const answer = await call("look", asked);
  if (asked.user !== state.user || asked.chat !== state.chat || asked.tab !== state.tab || asked.lang !== state.lang) {
    for (const one of EVERYTHING) changed.add(one);
    again = true;
    return;
  }
  $("lost").hidden = !answer.lost;
  if (answer.lost || answer.ready === false) { setTimeout(refresh, 700); return; }
  $("cover").hidden = true;
  if (!source || source.readyState === EventSource.CLOSED) listen();
  if (answer.error) {
    for (const one of asked.news) changed.add(one); // they are still to be looked at
    return refused(answer.message ?? answer.error);
  }
  root.dataset.ready = "yes";
  if (!state.chat) openFirst(answer.chat);
  for (const [name, part] of Object.entries(answer.parts)) {
    if (state.editing && (name === "memories" || name === "tabs")) continue;
    state.have[name] = part.tag;
    showPart(name, part.html);
  }
  if (answer.live !== state.live && !asked.news.includes("turns")) {
    changed.add("turns"); // how a message looks depends on whether it is being answered
    again = true;
  }
  state.live = answer.live;
  if (state.pending && root.querySelector(`[data-turn="${state.pending.id}"]`)) state.pending = null;
  if (state.live && !state.streaming) start("follow", {});
  showPending();
  showStream();
  toEnd();
}

function refused(error) {
  toast(error);
  if (state.user !== SETUP.user) becomeUser(SETUP.user);
}

function openFirst(id) {
  state.chat = id || newId();
}

// ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────
let outgoing = {};

function start(kind, more) {
  outgoing = where(more);
  state.streaming = { chat: state.chat, id: more.id, fresh: Boolean(more.text) };
  trigger(kind);
  showStream();
}

async function settled(failed) {
  const was = state.streaming;
  await new Promise((go) => setTimeout(go, 0));
  if (looking) await looking;
  const shown = was?.fresh && $("transcript").querySelector(`[data-reply-to="${CSS.escape(was.id)}"]`);
  if (!shown) await refresh(["turns", "jobs"]); // else its news were quicker
  if (was && state.pending && state.pending.id === was.id) { // it did not get through: give the words back
    const box = $("text");
    if (!box.value) box.value = state.pending.text;
    growText();
    state.pending = null;
    showPending();
  }
  if (state.streaming === was) state.streaming = null;
  showStream();
  if (failed && was) toast((await call("refused", { id: was.id })).error);
}

window.afterword = { outgoing: () => outgoing, settled, refresh };

function leaveStream() {
  if (!state.streaming) return;
  state.streaming = null;
  trigger("leave");
}

function send() {
  const text = $("text").value;
  if (!text.trim()) return;
  if (busy()) { state.wish = send; return; } // done when the reply has ended, see showStream
  state.pending = { id: newId(), chat: state.chat, text };
  $("text").value = "";
  growText();
  stuck = true;
  showPending();
  start("ask", { text, id: state.pending.id });
}

function askAgain(id) {
  if (busy()) { state.wish = () => askAgain(id); return; } // right after a stop the page still settles
  stuck = true;
  start("ask", { id });
  refresh();
}

// ── going about ──────────────────────────────────────────────────────────────────────────────────────────────────
function goTo(chat) {
  leaveStream();
  Object.assign(state, { chat, turns: 60, live: null, pending: null, wish: null });
  delete state.have.transcript;
  $("transcript").replaceChildren();
  stuck = true;
  store.set("chats", { ...chats(), [state.user]: chat });
  showPending();
  showStream();
  closeSides();
  return refresh();
}

function becomeUser(name) {
  leaveStream();
  Object.assign(state, { user: name, have: {}, turns: 60, memories: 100, live: null, pending: null, wish: null, editing: false });
  state.chat = chats()[name] ?? "";
  for (const part of ["transcript", "memories", "chats", "strip", "runs"]) {
    $(part).replaceChildren();
    delete $(part).dataset.filled;
  }
  store.set("user", name);
  store.set("users", [name, ...store.get("users", []).filter((other) => other !== name)].slice(0, 8));
  speak();
  listen();
  return refresh();
}

function closeSides() { root.classList.remove("chats-open", "memory-open"); }

async function openSource(chat, turn) {
  if (chat !== state.chat) await goTo(chat);
  const find = () => root.querySelector(`#aw-transcript [data-turn="${CSS.escape(turn)}"]`);
  if (!find()) { state.turns = 2000; await refresh(); }
  closeSides();
  const found = find();
  if (!found) return toast(t("source_gone"));
  stuck = false;
  found.scrollIntoView({ block: "center", behavior: "smooth" });
  found.classList.add("found");
  setTimeout(() => found.classList.remove("found"), 2500);
}

async function act(name, more) {
  const answer = await call(name, more);
  if (answer.error) toast(answer.error);
  await refresh();
}

const doings = {
  "open-chat": (d) => goTo(d.id),
  "new-chat": () => { goTo(newId()); $("text").focus(); },
  "open-source": (d) => openSource(d.chat, d.id),
  "ask-again": (d) => askAgain(d.id),
  earlier: () => { state.turns = Math.min(2000, state.turns + 200); stuck = false; refresh(); },
  "more-memories": () => { state.memories += 200; refresh(); },
  tab: (d) => { state.tab = d.id; state.editing = false; delete $("memories").dataset.filled; refresh(); },
  stop: () => call("stop", {}),
  consolidate: (_, button) => { button.disabled = true; act("consolidate", {}); },
  backfill: () => act("backfill", {}),
  retry: (d) => act("retry", { id: d.id }),
  edit: (_, button) => editCard(button.closest(".aw-card")),
  users: chooseUser,
  "toggle-chats": () => root.classList.toggle("chats-open"),
  "toggle-memory": () => root.classList.toggle(matchMedia("(max-width: 1080px)").matches ? "memory-open" : "memory-closed"),
  "close-sides": closeSides,
  theme: () => { store.set("theme", document.body.classList.contains("dark") ? "light" : "dark"); paintTheme(); },
  language: () => {
    state.lang = state.lang === "zh" ? "en" : "zh";
    store.set("lang", state.lang);
    speak();
    refresh();
  },
  delete: async (d) => { if (await confirmed(t("delete_title"), t("delete_ask"), t("delete"))) act("delete", { id: d.id }); },
  "delete-chat": async (d) => {
    if (!(await confirmed(t("delete_chat_title"), t("delete_chat_ask"), t("delete")))) return;
    await call("delete-chat", { id: d.id }).then((answer) => answer.error && toast(answer.error));
    await (d.id === state.chat ? goTo(newId()) : refresh());
  },
  reset: async () => {
    if (!(await confirmed(t("reset_title"), t("reset_ask").replace("{user}", () => state.user), t("reset_yes")))) return;
    leaveStream();
    const answer = await call("reset", {});
    if (answer.error) return toast(answer.error);
    await goTo(newId());
  },
};

root.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (!button || button.disabled) return;
  doings[button.dataset.do]?.(button.dataset, button);
});
root.addEventListener("toggle", async (event) => {
  const opened = event.target;
  const place = opened.querySelector?.(":scope > div");
  if (!opened.open || !place || place.dataset.filled) return;
  const answer = await (opened.dataset.why ? call("why", { id: opened.dataset.why }) : call("details", { id: opened.dataset.memory }));
  if (answer.error) place.textContent = answer.error;
  else { place.innerHTML = answer.html; place.dataset.filled = "yes"; }
  opened.scrollIntoView({ block: "nearest" });
}, true);
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("text").addEventListener("input", () => { if (state.wish === send) state.wish = null; growText(); });
$("text").addEventListener("keydown", (event) => {
  // an Enter that ends the composition of Chinese text is not a wish to send
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
});

// ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────
let source = null;

// A hidden tab holds no connection: browsers allow six to a server, and six tabs would leave none for a message.
function listen() {
  source?.close();
  source = null;
  if (document.hidden) return;
  const mine = new EventSource(SETUP.events + "?user_id=" + encodeURIComponent(state.user));
  source = mine;
  mine.addEventListener("changed", notice); // comes at once too, for what changed while nobody listened
  mine.addEventListener("error", () => {
    refresh(); // says so when the server is away, and looks until it is back
    if (mine.readyState === EventSource.CLOSED && source === mine) setTimeout(() => source === mine && listen(), 2000);
  });
}

document.addEventListener("visibilitychange", () => { listen(); if (!document.hidden) refresh(); });

// Gradio loads the component that a reply streams into on its own time; it is moved to where replies stand.
(function adopt() {
  const stream = document.getElementById("aw-live");
  if (stream) $("live-slot").append(stream);
  else requestAnimationFrame(adopt);
})();
new MutationObserver(() => {
  $("streaming").classList.toggle("has-text", Boolean($("live-slot").querySelector(".prose")?.textContent.trim()));
  toEnd();
}).observe($("live-slot"), { childList: true, subtree: true, characterData: true });
paintTheme();
speak();
state.chat = chats()[state.user] ?? "";
becomeUser(state.user);

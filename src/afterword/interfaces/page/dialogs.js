// Questions to the person, in the page's own dialog.
const dialog = $("dialog");

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function choice(yes, danger) {
  const row = make("div", "aw-row");
  const no = make("button", "aw-button", t("cancel"));
  no.type = "button";
  no.dataset.choice = "no";
  no.addEventListener("click", () => dialog.close("no"));
  const go = make("button", "aw-button " + (danger ? "danger" : "primary"), yes);
  go.type = "submit";
  go.dataset.choice = "yes";
  row.append(no, go);
  return row;
}

// Resolves to true only when the person said yes; closing in any other way is a no.
function openDialog(parts) {
  const form = make("form");
  form.append(...parts);
  form.addEventListener("submit", (event) => { event.preventDefault(); event.stopPropagation(); dialog.close("yes"); });
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}

const confirmed = (title, text, yes) =>
  openDialog([make("h3", "", title), make("p", "", text), choice(yes, true)]);

async function chooseUser() {
  const input = make("input", "aw-input");
  input.id = "aw-user-name";
  input.maxLength = 200;
  input.value = "";
  input.placeholder = t("user_name");
  input.setAttribute("aria-label", t("user_name"));
  const others = make("div", "aw-users");
  for (const name of store.get("users", [])) {
    const pick = make("button", "aw-button" + (name === state.user ? " here" : ""), name);
    pick.type = "button";
    pick.addEventListener("click", () => { input.value = name; dialog.close("yes"); });
    others.append(pick);
  }
  const parts = [make("h3", "", t("users_title")), make("p", "", t("users_text")), others, input, choice(t("switch"), false)];
  if (!(await openDialog(parts))) return;
  const name = input.value.trim();
  const answer = await call("user", { user: name });
  if (answer.error) return toast(answer.error);
  if (name !== state.user) becomeUser(name);
}

function editCard(card) {
  if (state.editing) return;
  state.editing = true;
  const text = card.querySelector(".aw-text");
  const form = make("form", "aw-edit");
  const box = make("textarea", "aw-input");
  box.value = text.textContent;
  box.rows = 4;
  const close = () => { state.editing = false; form.replaceWith(text); refresh(); };
  const row = make("div", "aw-row");
  const no = make("button", "aw-small", t("cancel"));
  no.type = "button";
  no.addEventListener("click", close);
  const save = make("button", "aw-small primary", t("save"));
  save.type = "submit";
  row.append(no, save);
  form.append(box, row);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    const answer = await call("edit", { id: card.dataset.id, text: box.value });
    if (answer.error) return toast(answer.error);
    close();
  });
  text.replaceWith(form);
  box.focus();
}

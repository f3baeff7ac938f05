// The front end of the users: four requests, and one stream of notifications. No library.

const element = (id) => document.getElementById(id);
const form = element("editor").querySelector("form");
const FIELDS = ["name", "email", "age"];

// --- requests --------------------------------------------------------------------------------------------------------

/** The answer's JSON. What the hub refuses is thrown: its problem+json, with a list of what is wrong. */
async function ask(method, path, body) {
  const request = { method };
  if (body !== undefined) {
    request.headers = { "Content-Type": "application/json" };
    request.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw { detail: "The hub does not answer." };
  }
  const answer = response.status === 204 ? null : await response.json();
  if (!response.ok) throw answer;
  return answer;
}

// --- the list --------------------------------------------------------------------------------------------------------

let shown = 0; // answers may overtake each other: only the one to the last question counts

async function showUsers() {
  const question = ++shown;
  try {
    const users = await ask("GET", "users?" + new URLSearchParams({ search: element("search").value }));
    if (question !== shown) return;
    element("users").replaceChildren(...users.map(row));
    element("nobody").hidden = users.length > 0;
    element("failure").textContent = "";
  } catch (problem) {
    element("failure").textContent = problem.detail;
  }
}

function row(user) {
  const made = element("user-row").content.cloneNode(true);
  for (const name of ["id", ...FIELDS]) made.querySelector(`.${name}`).textContent = user[name] ?? "";
  const [edit, remove] = made.querySelectorAll("button");
  edit.setAttribute("aria-label", `Edit ${user.name}`);
  remove.setAttribute("aria-label", `Delete ${user.name}`);
  edit.onclick = () => open(user);
  remove.onclick = () => deleteUser(user);
  return made;
}

async function deleteUser(user) {
  if (!confirm(`Delete ${user.name}?`)) return;
  try {
    await ask("DELETE", `users/${user.id}`);
  } catch (problem) {
    element("failure").textContent = problem.detail;
  }
}

// --- the form --------------------------------------------------------------------------------------------------------

let edited = null; // the user as it was when the form opened; null for a new one

function open(user) {
  edited = user;
  element("editor-heading").textContent = user ? `Edit ${user.name}` : "Add a user";
  for (const name of FIELDS) form.elements[name].value = user?.[name] ?? "";
  showProblem(null);
  element("editor").showModal();
}

async function save(event) {
  event.preventDefault();
  const entered = { name: form.elements.name.value, email: form.elements.email.value, age: number(form.elements.age.value) };
  try {
    if (edited) await ask("PATCH", `users/${edited.id}`, changes(edited, entered));
    else await ask("POST", "users", entered);
    element("editor").close();
  } catch (problem) {
    showProblem(problem);
  }
}

/** What is no number goes as it is: the hub says what is wrong with it. */
function number(text) {
  if (text.trim() === "") return null;
  return Number.isNaN(Number(text)) ? text : Number(text);
}

function changes(before, after) {
  return Object.fromEntries(FIELDS.filter((name) => before[name] !== after[name]).map((name) => [name, after[name]]));
}

/** Each error beside its field ("$.email" is the field email), and what has no field below the form. */
function showProblem(problem) {
  const errors = new Map((problem?.errors ?? []).map((error) => [error.path.replace("$.", ""), error.message]));
  for (const name of FIELDS) {
    element(`${name}-error`).textContent = errors.get(name) ?? "";
    form.elements[name].setAttribute("aria-invalid", String(errors.has(name)));
  }
  const first = FIELDS.find((name) => errors.has(name));
  element("form-error").textContent = problem && !first ? problem.detail : "";
  if (first) form.elements[first].focus();
}

// --- notifications ---------------------------------------------------------------------------------------------------

/** In its place, the newest first; it may come twice, from the list and from the stream. */
function showNotification(notification) {
  const list = element("notifications");
  const next = [...list.children].find((child) => Number(child.dataset.id) <= notification.id);
  if (next?.dataset.id === String(notification.id)) return;
  list.insertBefore(item(notification), next ?? null);
  if (list.children.length > 100) list.lastChild.remove();
}

function item(notification) {
  const made = document.createElement("li");
  made.dataset.id = notification.id;
  const time = document.createElement("time");
  time.dateTime = notification.time;
  time.textContent = new Date(notification.time).toLocaleString();
  made.append(`User ${notification.user_id} was ${notification.what}`, time);
  return made;
}

async function showAll() {
  await showUsers();
  try {
    (await ask("GET", "notifications")).forEach(showNotification);
  } catch (problem) {
    element("failure").textContent = problem.detail;
  }
}

const events = new EventSource("topics/notifications/events");
events.onopen = () => {
  element("connection").textContent = "live";
  showAll(); // whatever happened before the stream began, or while it was away
};
events.onerror = () => (element("connection").textContent = "not connected; trying again …");
events.onmessage = (event) => {
  showNotification(JSON.parse(event.data));
  showUsers();
};
events.addEventListener("reset", () => {
  element("notifications").replaceChildren(); // the hub was started anew, and counts from 1 again
  showAll();
});

element("search").oninput = showUsers;
element("add").onclick = () => open(null);
element("cancel").onclick = () => element("editor").close();
form.onsubmit = save;

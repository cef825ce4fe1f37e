// Light or dark; the choice is kept in this browser. Without one the system decides.

const KEY = "fish-speech-colors";
const button = element.querySelector("button");
const isDark = () => document.body.classList.contains("dark");

function show() {
  button.setAttribute("aria-pressed", String(isDark()));
}

button.addEventListener("click", () => {
  document.body.classList.toggle("dark");
  localStorage.setItem(KEY, isDark() ? "dark" : "light");
});
const chosen = localStorage.getItem(KEY);
if (chosen) document.body.classList.toggle("dark", chosen === "dark");
new MutationObserver(show).observe(document.body, { attributeFilter: ["class"] });
show();

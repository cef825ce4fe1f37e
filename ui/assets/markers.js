// Marker buttons: insert at the cursor of the text box. Also the keys of the page.
// Gradio runs this file as a function of (element, trigger, props, server, upload, watch).

const textBox = () => document.querySelector("#speech-text textarea");

function setText(box, text, cursor) {
  box.value = text;
  box.dispatchEvent(new Event("input", { bubbles: true })); // Gradio listens for this
  box.focus();
  box.setSelectionRange(cursor, cursor);
}

window.insertMarker = (marker) => {
  const box = textBox();
  const before = box.value.slice(0, box.selectionStart);
  const after = box.value.slice(box.selectionEnd);
  const piece = (before && !/\s$/.test(before) ? " " : "") + marker + (/^\s/.test(after) ? "" : " ");
  setText(box, before + piece + after, before.length + piece.length);
};

window.useExample = (example) => {
  document.querySelector("#pages button[role=tab]").click();
  setText(textBox(), example, example.length);
};

element.addEventListener("click", (event) => {
  const marker = event.target.closest("[data-marker]")?.dataset.marker;
  if (marker) window.insertMarker(marker);
});

// Ctrl+Enter speaks from anywhere on the page; Esc stops, or pauses what is heard.
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.querySelector("#pages button[role=tab]").click();
    document.querySelector("#speak")?.click(); // not there while something is spoken
  } else if (event.key === "Escape" && event.target.getAttribute?.("aria-expanded") !== "true") {
    const stop = document.querySelector("#stop");
    if (stop) stop.click(); // also when another tab is shown
    else if (window.player?.isPlaying()) window.player.toggle();
  }
});

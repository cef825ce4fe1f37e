// A click on an example takes it to the text box.
element.addEventListener("click", (event) => {
  const example = event.target.closest("[data-example]")?.dataset.example;
  if (example) window.useExample(example);
});

// A figure of a notebook is wider than a phone, and is scrolled there; a picture shrinks to fit. CSS cannot ask which it is.
addEventListener("load", () => {
  for (const image of document.querySelectorAll(".cell_output > img")) {
    if (image.naturalWidth > 600) image.classList.add("figure-of-cell");
  }
  for (const cell of document.querySelectorAll("td")) {
    // Without this a phone breaks 5e-08 at its hyphen.
    if (/^[-+\d.,e%]+$/.test(cell.textContent.trim())) cell.classList.add("number");
  }
});

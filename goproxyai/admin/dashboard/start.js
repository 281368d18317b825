/** Loads the dashboard, and says so where a part of it cannot be loaded. */

import("./app.js").catch((error) => {
  const status = /** @type {HTMLElement} */ (document.getElementById("connection"));
  status.dataset.kind = "bad";
  status.textContent = "not loaded: reload the page";
  throw error; // to the console
});

/**
 * Changes to the document. Data becomes text, never markup. Nodes that have not changed are not
 * touched, so that focus and selection survive an update.
 */

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element with the ID ${id}`);
  return found;
}

/**
 * @param {Element} node without child elements
 * @param {string} text
 */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * @param {string} id
 * @param {string} text
 */
export function put(id, text) {
  write(byId(id), text);
}

/**
 * @param {Element} node
 * @param {string} name
 * @param {string | number} value
 */
export function set(node, name, value) {
  if (node.getAttribute(name) !== String(value)) node.setAttribute(name, String(value));
}

/**
 * Show a status; style.css puts a sign before the text that differs in shape and in colour.
 * @param {string} id
 * @param {"good" | "busy" | "bad" | "idle"} kind
 * @param {string} text
 */
export function showStatus(id, kind, text) {
  set(byId(id), "data-kind", kind);
  put(id, text);
}

/** @typedef {{text: string, title?: string, class?: string, kind?: string, button?: Button}} Cell */
/** @typedef {{label: string, press: () => void}} Button label: for screen readers */
/** @typedef {{key: string, cells: Cell[]}} Row */

/**
 * A table body. A row keeps its element for as long as its key is present.
 *
 * On a narrow screen, a table of the class "stacks" shows a row as a block, and each cell with the
 * name of its column. Such a table needs ARIA roles: without `display: table`, it has none.
 */
export class Table {
  /** @type {Map<string, HTMLTableRowElement>} */
  #rows = new Map();

  /** @param {string} id of the table; the element `${id}-empty` is shown while it has no rows */
  constructor(id) {
    this.table = /** @type {HTMLTableElement} */ (byId(id));
    this.body = this.table.tBodies[0];
    this.stacks = this.table.classList.contains("stacks");
    this.columns = [...this.table.tHead?.rows[0].cells ?? []].map((cell) => cell.textContent ?? "");
    this.empty = document.getElementById(`${id}-empty`);
  }

  /** @param {Row[]} rows */
  show(rows) {
    const keys = new Set(rows.map((row) => row.key));
    for (const [key, element] of this.#rows) {
      if (!keys.has(key)) {
        element.remove();
        this.#rows.delete(key);
      }
    }
    rows.forEach((row, index) => {
      const element = this.#rows.get(row.key) ?? this.#createRow(row);
      if (this.body.rows[index] !== element) {
        this.body.insertBefore(element, this.body.rows[index] ?? null);
      }
      row.cells.forEach((cell, column) => fill(element.cells[column], cell));
    });
    const wrapper = /** @type {HTMLElement} */ (this.table.parentElement);
    wrapper.hidden = rows.length === 0;
    if (this.empty) this.empty.hidden = rows.length > 0;
  }

  /**
   * @param {Row} row
   * @returns {HTMLTableRowElement}
   */
  #createRow(row) {
    const element = document.createElement("tr");
    row.cells.forEach((_, column) => {
      const cell = document.createElement(column === 0 ? "th" : "td");
      if (column === 0) cell.setAttribute("scope", "row");
      if (this.stacks) {
        cell.setAttribute("role", column === 0 ? "rowheader" : "cell");
        cell.dataset.label = this.columns[column];
      }
      element.append(cell);
    });
    if (this.stacks) element.setAttribute("role", "row");
    this.#rows.set(row.key, element);
    return element;
  }
}

/**
 * @param {HTMLTableCellElement} element
 * @param {Cell} cell
 */
function fill(element, cell) {
  if (cell.button) fillButton(element, cell.text, cell.button);
  else write(element, cell.text);
  if (cell.class) set(element, "class", cell.class);
  if (cell.title) set(element, "title", cell.title);
  if (cell.kind) set(element, "data-kind", cell.kind);
}

/**
 * @param {HTMLTableCellElement} element
 * @param {string} text
 * @param {Button} button
 */
function fillButton(element, text, button) {
  let node = element.querySelector("button");
  if (!node) {
    node = document.createElement("button");
    node.type = "button";
    node.className = "plain";
    element.replaceChildren(node);
  }
  write(node, text);
  set(node, "aria-label", button.label);
  node.onclick = button.press;
}

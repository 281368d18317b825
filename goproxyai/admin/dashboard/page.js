/**
 * Changes to the document. Whatever comes from data becomes text, never markup; and what has not
 * changed is not touched, so that focus and selection outlive an update.
 */

/**
 * @param {string} id
 * @returns {HTMLElement}
 */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no ${id}`);
  return found;
}

/**
 * @param {Element} node which has nothing but text in it
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
 * A word with a sign before it that differs in shape as well as in colour.
 * @param {string} id
 * @param {"good" | "busy" | "bad" | "idle"} kind
 * @param {string} text
 */
export function state(id, kind, text) {
  set(byId(id), "data-kind", kind);
  put(id, text);
}

/** @typedef {{text: string, title?: string, class?: string, kind?: string}} Cell */
/** @typedef {{key: string, cells: Cell[]}} Row */

/** A table's body, whose rows stay the same elements for as long as their key is there. */
export class Table {
  /** @type {Map<string, HTMLTableRowElement>} */
  #rows = new Map();

  /** @param {string} id of the table; what is called `${id}-none` is shown while it is empty */
  constructor(id) {
    this.table = /** @type {HTMLTableElement} */ (byId(id));
    this.body = this.table.tBodies[0];
    this.none = document.getElementById(`${id}-none`);
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
    rows.forEach((row, place) => {
      const element = this.#rows.get(row.key) ?? this.#made(row);
      if (this.body.rows[place] !== element) {
        this.body.insertBefore(element, this.body.rows[place] ?? null);
      }
      row.cells.forEach((cell, column) => fill(element.cells[column], cell));
    });
    const wrapper = /** @type {HTMLElement} */ (this.table.parentElement);
    wrapper.hidden = rows.length === 0;
    if (this.none) this.none.hidden = rows.length > 0;
  }

  /**
   * @param {Row} row
   * @returns {HTMLTableRowElement}
   */
  #made(row) {
    const element = document.createElement("tr");
    row.cells.forEach((_, column) => {
      const cell = document.createElement(column === 0 ? "th" : "td");
      if (column === 0) cell.setAttribute("scope", "row");
      element.append(cell);
    });
    this.#rows.set(row.key, element);
    return element;
  }
}

/**
 * @param {HTMLTableCellElement} element
 * @param {Cell} cell
 */
function fill(element, cell) {
  write(element, cell.text);
  if (cell.class) set(element, "class", cell.class);
  if (cell.title) set(element, "title", cell.title);
  if (cell.kind) set(element, "data-kind", cell.kind);
}

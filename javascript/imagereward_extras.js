// The Extras tab: scores on its gallery's thumbnails, and the table of scores, which the server sends best first,
// sorted by whichever column is pressed.
(function () {
    "use strict";

    const gallery = (window.imagerewardGallery = window.imagerewardGallery || {});
    const TABLE = "#html_info_x_extras .imagereward-table";

    function read(root, images) {
        try {
            const {scores, low, high, meanings} = JSON.parse(root.dataset.gallery);
            return scores.length === images.length
                ? {scores: scores, range: [low, high], meanings: meanings || []}
                : null;
        } catch (error) {
            return null;
        }
    }

    function update() {
        const root = gradioApp().querySelector("#extras_gallery");
        if (!root) return;
        const state = gallery.states.extras || (gallery.states.extras = gallery.newState("extras"));
        if (state.gallery !== root) {
            state.gallery = root;
            root.addEventListener("load", () => gallery.paintBadges(state), true);
        }
        const list =
            gallery.LISTS.map((one) => root.querySelectorAll(one + " img")).find((found) => found.length) || [];
        const images = Array.from(list);
        const table = gradioApp().querySelector(TABLE);
        const found = table && gallery.option("badges", true) ? read(table, images) : null;
        state.scores = new Map(images.map((image, i) => [image.src, found ? found.scores[i] : null]));
        state.meanings = new Map(images.map((image, i) => [image.src, (found && found.meanings[i]) || null]));
        const known = Array.from(state.scores.values()).filter((score) => score !== null);
        state.count = known.length;
        state.best = known.length ? Math.max(...known) : null;
        state.range = found ? found.range : state.range;
        gallery.paintBadges(state);
        gallery.say(state, table ? table.querySelector(".imagereward-summary").textContent : "");
    }

    // --- the table -------------------------------------------------------------------------------------------------

    // What a cell is sorted by: a number where there is one, else its text. Rows without a score stay last.
    function value(row, column) {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent : Number(cell.dataset.value);
    }

    function compare(a, b) {
        if (typeof a === typeof b)
            return typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true});
        return null;
    }

    function sortBy(header) {
        const table = header.closest("table");
        const headers = Array.from(table.tHead.rows[0].cells);
        const column = headers.indexOf(header);
        const turn = {ascending: "descending", descending: "ascending"}[header.getAttribute("aria-sort")];
        const direction =
            turn ||
            (table.tBodies[0].querySelector("td[data-value]:nth-child(" + (column + 1) + ")")
                ? "descending"
                : "ascending");
        headers.forEach((one) => one.setAttribute("aria-sort", one === header ? direction : "none"));
        const sign = direction === "ascending" ? 1 : -1;
        const rows = Array.from(table.tBodies[0].rows);
        rows.sort((a, b) => {
            const [x, y] = [value(a, column), value(b, column)];
            const order = compare(x, y);
            return order === null ? (typeof x === "number" ? -1 : 1) : sign * order;
        });
        table.tBodies[0].append(...rows);
    }

    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest(".imagereward-table th button") : null;
        if (button) sortBy(button.closest("th"));
    });
    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(update);
    }
})();

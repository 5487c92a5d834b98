// Which of the library's pictures are chosen: by click, shift and keys.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});
    const grid = (lib.grid = lib.grid || {}); // whichever script comes first

    function choose(index, {extend, toggle}) {
        const id = grid.ids[index];
        if (extend && grid.anchor >= 0) {
            if (!toggle) {
                grid.chosen.clear();
            }
            const [from, to] = [Math.min(grid.anchor, index), Math.max(grid.anchor, index)];
            grid.ids.slice(from, to + 1).forEach((one) => grid.chosen.add(one));
        } else if (toggle) {
            grid.chosen[grid.chosen.has(id) ? "delete" : "add"](id);
            grid.anchor = index;
        } else {
            grid.chosen.clear();
            grid.chosen.add(id);
            grid.anchor = index;
        }
        grid.cursor = index;
        grid.look();
    }

    // The chosen pictures in the grid's order; without any, the one that the keys are on.
    function selection() {
        if (grid.chosen.size) {
            return grid.ids.filter((id) => grid.chosen.has(id));
        }
        return grid.cursor >= 0 ? [grid.ids[grid.cursor]] : [];
    }

    function go(index) {
        if (index >= 0 && index < grid.ids.length) {
            grid.cursor = grid.anchor = index;
            grid.chosen.clear();
            grid.chosen.add(grid.ids[index]);
            grid.reveal(index);
            grid.look();
        }
    }

    function moved(key) {
        const rows = grid.rows();
        const columns = grid.columns();
        const last = grid.ids.length - 1;
        const at = Math.max(grid.cursor, 0);
        const to = {
            ArrowLeft: at - 1,
            ArrowRight: grid.cursor < 0 ? 0 : at + 1,
            ArrowUp: at - columns,
            ArrowDown: at + columns,
            PageUp: at - rows * columns,
            PageDown: at + rows * columns,
            Home: 0,
            End: last,
        }[key];
        return to === undefined ? undefined : Math.min(last, Math.max(0, to));
    }

    function keys(event) {
        if (!grid.ids.length || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
            return;
        }
        const command = event.ctrlKey || event.metaKey;
        const to = moved(event.key);
        let action = null;
        if (to !== undefined) {
            action = () => {
                if (command && !event.shiftKey) {
                    grid.cursor = to;
                    grid.look();
                } else {
                    choose(to, {extend: event.shiftKey, toggle: false});
                }
                grid.reveal(to);
            };
        } else if (command && event.key.toLowerCase() === "a") {
            action = chooseAll;
        } else if (command && event.key.toLowerCase() === "z") {
            action = lib.actions.takeBack;
        } else if (!command) {
            const starred = event.key.length === 1 && "012345".includes(event.key);
            action =
                {
                    " ": () => grid.cursor >= 0 && choose(grid.cursor, {toggle: true}),
                    Enter: () => grid.cursor >= 0 && lib.view.open(grid.cursor),
                    Escape: chooseNone,
                    k: () => lib.actions.toggleMark("keep"),
                    x: () => lib.actions.toggleMark("reject"),
                }[event.key] || (starred ? () => lib.actions.judge(selection(), {stars: Number(event.key)}) : null);
        }
        if (action) {
            event.preventDefault();
            event.stopPropagation();
            lib.guarded(action)();
        }
    }

    function chooseAll() {
        grid.chosen = new Set(grid.ids);
        grid.look();
    }

    function chooseNone() {
        grid.chosen.clear();
        grid.look();
    }

    function clicked(event) {
        const cell = event.target.closest("figure");
        const button = event.target.closest("button");
        if (!cell) {
            return;
        }
        const id = Number(cell.dataset.id);
        if (button) {
            const picture = grid.known.get(id);
            if (picture) {
                lib.cells.pressed(button.dataset.act, picture);
            }
            return;
        }
        const index = grid.places.get(id);
        const ticked = event.target.closest(".imagereward-library-tick");
        choose(index, {extend: event.shiftKey, toggle: !!ticked || event.ctrlKey || event.metaKey});
    }

    lib.choosing = {selection, go, chooseAll, chooseNone, keys, clicked};
})();

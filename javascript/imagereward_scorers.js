// The lists of scorers: beside each name what it still has to download; below the list, for one that is not on this
// machine, buttons that fetch it, with progress and Interrupt. The server says in its HTML what is here and how large
// the rest is (imagereward_webui/scorer_list.py).
(function () {
    "use strict";

    const ROOT = ".imagereward-fetch";
    const STATUS = "[id$='_status']"; // the element below a list is named after it
    const POLL_MS = 700;

    function part(root, selector) {
        return root.querySelector(selector);
    }

    function write(root, text) {
        const line = part(root, ".imagereward-fetch-text");
        if (line.textContent !== text) line.textContent = text;
    }

    async function ask(root, path, body) {
        const answer = await fetch(root.dataset.prefix.replace(/^\//, "") + path, {
            method: body === undefined ? "GET" : "POST",
            headers: {"X-ImageReward-Token": root.dataset.token, "Content-Type": "application/json"},
            body: body === undefined ? undefined : JSON.stringify(body),
        });
        const found = await answer.json().catch(() => ({}));
        if (!answer.ok) throw new Error(typeof found.detail === "string" ? found.detail : answer.statusText);
        return found;
    }

    function megabytes(bytes) {
        return Math.round(bytes / 1e6) + " MB";
    }

    // The text is read out by screen readers, so it changes with what happens and not with every byte; the bar has the
    // rest.
    function show(root, state) {
        const name = root.dataset.scorer;
        const mine = state.scorer === name;
        const running = mine && state.running;
        const bar = part(root, "progress");
        bar.hidden = !running;
        part(root, "[data-do='start']").hidden = running || (mine && state.outcome === "done");
        part(root, "[data-do='interrupt']").hidden = !running;
        if (running) {
            if (state.total) bar.value = state.done / state.total;
            else bar.removeAttribute("value");
            const share = state.total
                ? Math.floor((100 * state.done) / state.total) + " % of " + megabytes(state.total)
                : megabytes(state.done);
            part(root, "small").textContent = share;
            write(root, "Downloading " + name + ".");
        } else {
            part(root, "small").textContent = "";
            if (mine && state.outcome) write(root, ended(name, state));
        }
    }

    function ended(name, state) {
        if (state.outcome === "done") return "✓ " + name + " is on this machine now.";
        if (state.outcome === "interrupted")
            return "Interrupted: what arrived of " + name + " is kept, and the next try goes on from there.";
        return "⚠ " + name + " could not be downloaded: " + state.error;
    }

    async function follow(root) {
        if (!root.isConnected) return;
        try {
            const state = await ask(root, "");
            show(root, state);
            if (state.running && state.scorer === root.dataset.scorer) setTimeout(() => follow(root), POLL_MS);
        } catch (error) {
            write(root, "⚠ " + error.message);
        }
    }

    document.addEventListener("click", async (event) => {
        const button = event.target instanceof Element ? event.target.closest(ROOT + " button[data-do]") : null;
        if (!button) return;
        const root = button.closest(ROOT);
        const starting = button.dataset.do === "start";
        button.disabled = true;
        try {
            await ask(root, starting ? "" : "/interrupt", starting ? {scorer: root.dataset.scorer} : {});
            await follow(root);
            const next = part(root, "button:not([hidden])");
            if (starting && next) next.focus(); // the pressed button is hidden now: the keyboard goes on at Interrupt
        } catch (error) {
            write(root, "⚠ " + error.message);
        } finally {
            button.disabled = false;
        }
    });

    // --- sizes in the list -----------------------------------------------------------------------------------------

    // The list below which `known` stands. Gradio draws its entries when it is opened, by names alone.
    function watchList(known) {
        const list = gradioApp().querySelector("#" + CSS.escape(known.closest(STATUS).id.replace(/_status$/, "")));
        if (!list || list.imagerewardSizes) return;
        list.imagerewardSizes = () =>
            writeSizes(list, gradioApp().querySelector("#" + CSS.escape(list.id + "_status") + " .imagereward-sizes"));
        new MutationObserver(list.imagerewardSizes).observe(list, {
            childList: true,
            subtree: true,
            attributes: true,
            attributeFilter: ["aria-label"],
        });
        list.imagerewardSizes(); // it may be open already
    }

    function writeSizes(list, known) {
        const sizes = known ? JSON.parse(known.dataset.sizes) : {};
        list.querySelectorAll("ul.options li").forEach((entry) => {
            const size = sizes[entry.getAttribute("aria-label")];
            const text = size ? "· " + size + " to download" : "";
            let mark = entry.querySelector(":scope > .imagereward-size");
            if (!mark) {
                mark = document.createElement("small");
                mark.className = "imagereward-size";
                entry.append(mark);
            }
            if (mark.textContent !== text) {
                mark.textContent = text;
                if (text) entry.setAttribute("aria-description", text.slice(2));
                else entry.removeAttribute("aria-description");
            }
        });
    }

    function update() {
        gradioApp()
            .querySelectorAll(STATUS + " .imagereward-sizes")
            .forEach(watchList);
        gradioApp()
            .querySelectorAll(ROOT + "[data-running='1']:not([data-followed])")
            .forEach((root) => {
                root.dataset.followed = "1";
                follow(root);
            });
    }

    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(update);
    }
})();

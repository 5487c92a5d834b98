// The bar below a gallery: best first, the threshold, hide, keep, reset, and how many images reach the threshold. Where
// nothing is to be seen, a line says why. What changes is also said to screen readers.
(function () {
    "use strict";

    const gallery = (window.imagerewardGallery = window.imagerewardGallery || {});
    const KEEP = "Keep best first, threshold and hide for the next job; otherwise each job starts without them.";

    function make(tag, properties, ...children) {
        const element = Object.assign(document.createElement(tag), properties || {});
        element.append(...children);
        return element;
    }

    function checkbox(name, tab, label, change, title) {
        const box = make("input", {type: "checkbox", id: "imagereward-" + name + "-" + tab});
        box.addEventListener("change", () => change(box.checked));
        return [box, make("label", {title: title || ""}, box, label)];
    }

    function makeBar(tab, state) {
        const set = (values) => {
            Object.assign(state, values);
            gallery.paint(tab, state);
        };
        const changed = (values, said) => {
            set(values);
            say(state, emptiness(state) || said + ", " + standing(state));
        };
        const [sort, sortLabel] = checkbox(
            "sort",
            tab,
            "best first",
            (on) => {
                changed({sort: on}, on ? "best first" : "in the order made");
                if (on) gallery.selectFirst(state);
            },
            "Order what is shown here by score. Nothing is generated.",
        );
        const [hide, hideLabel] = checkbox(
            "hide",
            tab,
            "hide the others",
            (on) => changed({hide: on}, on ? "the others are hidden" : "all are shown"),
            "Not only dimmed: arrow keys, Save and Zip pass them over, too.",
        );
        const [pin, pinLabel] = checkbox("pin", tab, "keep for the next job", (on) => set({pinned: on}), KEEP);
        const slider = make("input", {type: "range", id: "imagereward-threshold-" + tab, step: "0.01"});
        const at = make("span", {className: "imagereward-at"});
        slider.setAttribute("aria-label", "Threshold: score at least");
        slider.addEventListener("input", () =>
            set({threshold: Number(slider.value) <= Number(slider.min) ? null : Number(slider.value)}),
        );
        const reset = make("button", {
            type: "button",
            id: "imagereward-reset-" + tab,
            textContent: "Reset",
            title: "Show every image, in the order they were made.",
        });
        reset.addEventListener("click", () => {
            changed({threshold: null, hide: false, sort: false}, "reset");
            sort.focus(); // the button is disabled now, and the keyboard's place would be lost with it
        });
        const count = make("span", {id: "imagereward-count-" + tab, className: "imagereward-count"});
        const root = make(
            "div",
            {id: "imagereward-bar-" + tab, className: "imagereward-bar"},
            sortLabel,
            at,
            slider,
            hideLabel,
            pinLabel,
            reset,
            count,
        );
        root.setAttribute("role", "group");
        root.setAttribute("aria-label", "ImageReward: what the gallery shows");
        return {root: root, sort: sort, hide: hide, pin: pin, slider: slider, at: at, reset: reset, count: count};
    }

    // How many images reach the threshold, in words.
    function standing(state) {
        const reach = state.known.filter((score) => gallery.reaches(score, state.threshold)).length;
        const filtered = state.hidden ? " · " + state.hidden + " filtered out" : "";
        const verb = state.hide && reach < state.count ? " shown" : "";
        return reach + " of " + state.count + verb + filtered;
    }

    // Why nothing is to be seen, or "".
    function emptiness(state) {
        if (state.empty) return state.empty;
        if (!state.count || state.seen.some((position) => position >= state.first)) return "";
        return (
            "Nothing to see: the best of " +
            state.count +
            " has " +
            state.best.toFixed(2) +
            ", and the threshold is " +
            state.threshold.toFixed(2) +
            ". Lower it, or press Reset."
        );
    }

    function write(element, text) {
        if (element.textContent !== text) element.textContent = text;
    }

    // Text for screen readers only. It must be on the page before it changes, or it is not read out.
    function say(state, text) {
        if (!state.live || !state.live.isConnected) {
            state.live = make("div", {className: "imagereward-live"});
            state.live.setAttribute("role", "status");
            state.live.setAttribute("aria-live", "polite");
            state.gallery.insertAdjacentElement("afterend", state.live);
        }
        write(state.live, text);
    }

    // A job is done, or another gallery came: what of it is said once.
    function newResult(tab, state) {
        const text = state.count ? state.summary || standing(state) + ", best " + state.best.toFixed(2) : state.empty;
        say(state, text ? "ImageReward: " + text : "");
    }

    function showNote(tab, state) {
        const text = emptiness(state);
        if (!text) {
            if (state.note) state.note.remove();
            return;
        }
        state.note =
            state.note || make("div", {id: "imagereward-empty-" + tab, className: "imagereward-bar imagereward-empty"});
        write(state.note, text);
        if (!state.note.isConnected) state.gallery.insertAdjacentElement("afterend", state.note);
    }

    // The slider spans the scores, and a threshold that was kept from another job.
    function showSlider(state) {
        const {slider} = state.bar;
        const marks = state.threshold === null ? state.known : [...state.known, state.threshold];
        const low = ((Math.floor(Math.min(...state.known) * 100 + 1e-6) - 1) / 100).toFixed(2);
        const high = (Math.ceil(Math.max(...marks) * 100 - 1e-6) / 100).toFixed(2);
        if (slider.min !== low || slider.max !== high) {
            slider.min = low;
            slider.max = high;
        }
        const value = state.threshold === null ? low : String(Math.max(Number(low), state.threshold));
        if (Number(slider.value) !== Number(value)) slider.value = value;
        const share = ((100 * (Number(slider.value) - low)) / (high - low)).toFixed(1) + "%";
        if (slider.style.getPropertyValue("--imagereward-share") !== share)
            slider.style.setProperty("--imagereward-share", share);
        gallery.setAttribute(
            slider,
            "aria-valuetext",
            (state.threshold === null ? "any score" : state.threshold.toFixed(2)) + ", " + standing(state),
        );
    }

    function paintBar(tab, state) {
        showNote(tab, state);
        if (!state.known.length) {
            if (state.bar && state.bar.root.isConnected) state.bar.root.remove();
            return;
        }
        state.bar = state.bar || makeBar(tab, state);
        const {root, sort, hide, pin, at, reset, count} = state.bar;
        if (!root.isConnected) state.gallery.insertAdjacentElement("afterend", root);
        showSlider(state);
        for (const [box, value] of [
            [sort, state.sort],
            [hide, state.hide],
            [pin, state.pinned],
        ]) {
            if (box.checked !== value) box.checked = value;
        }
        const untouched = state.threshold === null && !state.hide && !state.sort;
        if (reset.disabled !== untouched) reset.disabled = untouched;
        write(at, state.threshold === null ? "any score" : "score ≥ " + state.threshold.toFixed(2));
        write(count, standing(state));
    }

    Object.assign(gallery, {paintBar: paintBar, newResult: newResult, say: say});
})();

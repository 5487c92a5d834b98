// Scores on gallery thumbnails, and a slider that dims or hides what lies below a threshold.
//
// Gradio owns the gallery: its buttons are reused between runs and never reordered here. Each thumbnail is known by its
// image's address; a badge is one extra child that takes no clicks. Every update compares before it writes, so that the
// host's mutation callbacks come to rest.
(function () {
    "use strict";

    const TABS = ["txt2img", "img2img"];
    const THUMBNAILS = ".grid-container button.thumbnail-item, .thumbnails button.thumbnail-item";
    const NUMBER = "(-?\\d+(?:\\.\\d+)?)";
    const SCHEMA = "imagereward/v1/schema";
    const states = {};
    let scorers = null;  // what the server says of every scorer: its key in infotexts, and what its numbers mean

    function option(name, fallback) {
        const value = typeof opts === "object" && opts ? opts["imagereward_" + name] : undefined;
        return value === undefined ? fallback : value;
    }

    function escapeForRegExp(text) {
        return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    }

    // Asked once, without the browser's password prompt; a server that does not answer leaves us what infotexts say themselves.
    function askForScorers() {
        if (scorers) return;
        scorers = [];
        fetch(SCHEMA, {credentials: "omit"}).then((answer) => (answer.ok ? answer.json() : {})).then((schema) => {
            scorers = (Array.isArray(schema.scorers) ? schema.scorers : []).concat(schema.panel || []);
            Object.values(states).forEach((state) => { state.key = null; });
            update();
        }).catch(() => {});
    }

    function keysOf(scorer) {
        return [scorer.key].concat(scorer.former_keys || []);
    }

    // {key, score} in an infotext's settings line, or null. Any scorer's key counts; the prompt above does not. A score whose
    // model is named beside it is one, whoever the scorer is.
    function foundInInfotext(text) {
        const keys = [option("key", "ImageReward"), "ImageReward"].concat(...(scorers || []).map(keysOf));
        const line = String(text).split("\n").pop();
        const known = line.match(new RegExp("(?:^|, )(" + keys.map(escapeForRegExp).join("|") + "): " + NUMBER + "(?=,|$)"));
        const found = known || line.match(new RegExp("(?:^|, )([\\w][\\w /-]*): " + NUMBER + ", \\1 model: "));
        return found ? {key: found[1], score: Number(found[2])} : null;
    }

    function scoreInInfotext(text) {
        const found = foundInInfotext(text);
        return found ? found.score : null;
    }

    // Where a scorer's numbers are bad and good, or null if nobody says so: those are told apart within the gallery.
    function scaleOf(info) {
        if (resultOf(info).ranks) return null;
        const texts = info.infotexts || [];
        const found = texts.map(foundInInfotext).find((one) => one !== null);
        const key = found ? found.key : resultOf(info).key;
        const scorer = (scorers || []).find((one) => keysOf(one).includes(key));
        return scorer && scorer.high > scorer.low ? [scorer.low, scorer.high] : null;
    }

    // What the server says of the whole job.
    function resultOf(info) {
        return (info.extra_generation_params || {})["ImageReward result"] || {};
    }

    // One score or null per gallery position. Infotexts are the truth where each position has one (the upscale button replaces
    // one of them and nothing else); with masks in between, the server says which position has which score.
    function scoresByPosition(info, count) {
        const ranked = resultOf(info).ranks && resultOf(info).scores;  // a panel's ranks stand in no infotext
        if (Array.isArray(ranked) && ranked.length === count) return ranked;
        const first = info.index_of_first_image || 0;
        const texts = (info.infotexts || []).slice(0, count);
        const scores = texts.map((text, i) => (i < first ? null : scoreInInfotext(text)));
        const result = resultOf(info);
        const own = texts.slice(first);
        const told = Array.isArray(result.scores) && result.scores.length === count ? result.scores : null;
        if (own.length > 1 && own.every((text) => text === own[0])) {
            // Loopback gives every image the text of its first one: unless the server tells, better no score than a wrong one
            return told || Array(count).fill(null);
        }
        if (scores.length === count) {
            return scores;
        }
        if (told) {
            return told;
        }
        return scores.length > first ? spreadOverMasks(scores, first, count) : Array(count).fill(null);
    }

    // Masks follow each image in the gallery, but have no infotext of their own.
    function spreadOverMasks(scores, first, count) {
        const images = scores.length - first;
        const masks = typeof opts === "object" && opts ? Number(!!opts.return_mask) + Number(!!opts.return_mask_composite) : 0;
        const step = masks && images * (1 + masks) <= count - first ? 1 + masks : 1;
        return Array.from({length: count}, (_, i) => {
            const offset = i - first;
            return i < first ? scores[i] : offset % step === 0 && offset / step < images ? scores[first + offset / step] : null;
        });
    }

    function parse(text) {
        try {
            return JSON.parse(text) || {};
        } catch (error) {
            return {};
        }
    }

    function rgb(hex) {
        const value = parseInt(String(hex).replace("#", "").slice(0, 6), 16) || 0;
        return [value >> 16, (value >> 8) & 255, value & 255];
    }

    // From the low over the middle to the high colour over [low, high], with a text colour that can be read on it.
    function colours(score, low, high) {
        const share = high > low ? Math.min(1, Math.max(0, (score - low) / (high - low))) : 1;
        const stops = [option("colour_low", "#b3261e"), option("colour_middle", "#8a6100"), option("colour_high", "#146c2e")].map(rgb);
        const half = share < 0.5 ? 0 : 1;
        const mixed = stops[half].map((channel, i) => Math.round(channel + (stops[half + 1][i] - channel) * (2 * share - half)));
        const bright = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2] > 150;
        return {background: "rgb(" + mixed.join(",") + ")", text: bright ? "#000" : "#fff"};
    }

    // By what the badge shows, so that a thumbnail marked 0.50 is not below 0.50.
    function reaches(score, threshold) {
        return threshold === null || Number(score.toFixed(2)) >= threshold;
    }

    function setBadge(button, score, best, range) {
        let badge = button.querySelector(":scope > .imagereward-badge");
        if (score === null) {
            if (badge) badge.remove();
            return;
        }
        if (!badge) {
            badge = document.createElement("span");
            badge.className = "imagereward-badge notranslate";
            button.appendChild(badge);
        }
        const colour = colours(score, range[0], range[1]);
        const look = score.toFixed(2) + colour.background;
        if (badge.dataset.look !== look) {
            badge.dataset.look = look;
            badge.textContent = score.toFixed(2);
            badge.style.backgroundColor = colour.background;
            badge.style.color = colour.text;
        }
        setClass(badge, "imagereward-best", best);
    }

    // The score of the image in large, which has no thumbnail button of its own.
    function paintPreview(gallery, state) {
        const preview = gallery.querySelector(".preview");
        if (!preview) return;
        const image = preview.querySelector("[data-testid='detailed-image']");
        const score = image && state.scores.has(image.src) ? state.scores.get(image.src) : null;
        setBadge(preview, score, score !== null && state.best === score && state.count > 1, state.range);
    }

    function setClass(element, name, wanted) {
        if (element.classList.contains(name) !== wanted) {
            element.classList.toggle(name, wanted);
        }
    }

    // The row below the gallery: slider, "hide" box, and how many images reach the threshold.
    function makeBar(tab, state) {
        const bar = document.createElement("div");
        bar.id = "imagereward-bar-" + tab;
        bar.className = "imagereward-bar";
        const label = document.createElement("label");
        label.textContent = "Score ≥ ";
        label.htmlFor = "imagereward-threshold-" + tab;
        const slider = document.createElement("input");
        slider.type = "range";
        slider.id = "imagereward-threshold-" + tab;
        slider.step = "0.01";
        const hide = document.createElement("input");
        hide.type = "checkbox";
        hide.id = "imagereward-hide-" + tab;
        const hideLabel = document.createElement("label");
        hideLabel.textContent = "hide";
        hideLabel.htmlFor = hide.id;
        const status = document.createElement("output");
        status.id = "imagereward-count-" + tab;
        status.htmlFor = slider.id;
        slider.addEventListener("input", () => {
            state.threshold = Number(slider.value) <= Number(slider.min) ? null : Number(slider.value);
            showShare(slider);
            paint(tab, state);
        });
        hide.addEventListener("change", () => {
            state.hide = hide.checked;
            paint(tab, state);
        });
        bar.append(label, slider, hide, hideLabel, status);
        state.bar = {root: bar, slider: slider, status: status};
        return bar;
    }

    // For the style sheet: which part of the track lies below the threshold.
    function showShare(slider) {
        const low = Number(slider.min);
        slider.style.setProperty("--imagereward-share", ((100 * (Number(slider.value) - low)) / (Number(slider.max) - low)).toFixed(1) + "%");
    }

    // What stands in the place of the bar when every image is hidden: why, and what to do.
    function updateEmpty(tab, gallery, state) {
        if (!state.empty) {
            if (state.note) state.note.remove();
            return;
        }
        if (!state.note) {
            state.note = document.createElement("div");
            state.note.id = "imagereward-empty-" + tab;
            state.note.className = "imagereward-bar imagereward-empty";
        }
        if (state.note.textContent !== state.empty) state.note.textContent = state.empty;
        if (!state.note.isConnected) gallery.insertAdjacentElement("afterend", state.note);
    }

    function updateBar(tab, gallery, state, known) {
        if (!known.length) {
            if (state.bar && state.bar.root.isConnected) state.bar.root.remove();
            return;
        }
        if (!state.bar) makeBar(tab, state);
        if (!state.bar.root.isConnected) gallery.insertAdjacentElement("afterend", state.bar.root);
        const low = (Math.floor(Math.min(...known) * 100) / 100 - 0.01).toFixed(2);
        const high = (Math.ceil(Math.max(...known) * 100) / 100).toFixed(2);
        const slider = state.bar.slider;
        if (slider.min !== low || slider.max !== high) {
            slider.min = low;
            slider.max = high;
            slider.value = state.threshold === null ? low : String(state.threshold);
            showShare(slider);
        }
    }

    function paint(tab, state) {
        const gallery = state.gallery;
        for (const button of gallery.querySelectorAll(THUMBNAILS)) {
            const image = button.querySelector("img");
            const score = image && state.scores.has(image.src) ? state.scores.get(image.src) : null;
            setBadge(button, score, score !== null && state.best === score && state.count > 1, state.range);
            const below = score !== null && !reaches(score, state.threshold);
            setClass(button, "imagereward-below", below && !state.hide);
            setClass(button, "imagereward-hidden", below && state.hide);
        }
        paintPreview(gallery, state);
        if (state.bar) {
            const known = state.known;
            const reach = known.filter((score) => reaches(score, state.threshold)).length;
            const at = state.threshold === null ? "" : state.threshold.toFixed(2) + " · ";
            const text = at + reach + " of " + known.length + (state.hidden ? " · " + state.hidden + " filtered out" : "");
            if (state.bar.status.textContent !== text) state.bar.status.textContent = text;
        }
    }

    function updateTab(tab) {
        const app = gradioApp();
        const gallery = app.querySelector("#" + tab + "_gallery");
        const textarea = app.querySelector("#generation_info_" + tab + " textarea");
        if (!gallery || !textarea) return;
        askForScorers();
        const state = states[tab] || (states[tab] = {threshold: null, hide: false, known: [], scores: new Map(), range: [-2, 2], count: 0});
        if (state.gallery !== gallery) {
            state.gallery = gallery;
            // another image chosen in the preview changes an attribute only, which the host's callbacks don't notice
            gallery.addEventListener("load", () => paintPreview(gallery, state), true);
        }
        const grid = gallery.querySelectorAll(".grid-container button.thumbnail-item img");
        const list = grid.length ? grid : gallery.querySelectorAll(".thumbnails button.thumbnail-item img");
        const sources = Array.from(list, (image) => image.src);
        const key = textarea.value + "\n" + sources.join("\n");
        if (state.key !== key) {
            state.key = key;
            const enabled = option("badges", true);
            const info = enabled ? parse(textarea.value) : {};
            const scores = scoresByPosition(info, sources.length);
            state.scores = new Map(sources.map((source, i) => [source, scores[i]]));
            state.known = scores.filter((score) => score !== null);
            state.count = state.known.length;
            const result = resultOf(info);
            state.hidden = result.hidden || 0;
            state.empty = sources.length ? "" : result.empty || "";
            state.best = state.count ? Math.max(...state.known) : null;
            state.range = scaleOf(info) || [state.count ? Math.min(...state.known) : 0, state.best || 0];
            updateBar(tab, gallery, state, state.known);
            updateEmpty(tab, gallery, state);
        } else if (state.count && !state.bar.root.isConnected) {
            updateBar(tab, gallery, state, state.known);
        }
        paint(tab, state);
    }

    function update() {
        TABS.forEach(updateTab);
    }

    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(update);
    }
    // for tests and for other extensions: what is on screen, by image address
    window.imagerewardGallery = {update: update, states: states, scoreInInfotext: scoreInInfotext, scoresByPosition: scoresByPosition};
})();

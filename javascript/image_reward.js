// Scores on gallery thumbnails: read from the infotexts, shown as badges. The bar below the gallery and the order and
// choice of what is seen have files of their own (imagereward_bar.js, imagereward_order.js).
//
// Gradio owns the gallery: its buttons are reused between runs and never moved here. Each thumbnail is known by its
// image's address; a badge is one extra child that takes no clicks. Every update compares before it writes, so that the
// host's mutation callbacks come to rest.
(function () {
    "use strict";

    const TABS = ["txt2img", "img2img"];
    const LISTS = [".grid-container button.thumbnail-item", ".thumbnails button.thumbnail-item"];
    const NUMBER = "(-?\\d+(?:\\.\\d+)?)";
    const SCHEMA = "imagereward/v1/schema";
    const gallery = (window.imagerewardGallery = window.imagerewardGallery || {});
    const states = {};
    let scorers = null; // what the server says of every scorer: its key in infotexts, and what its numbers mean

    function option(name, fallback) {
        const value = typeof opts === "object" && opts ? opts["imagereward_" + name] : undefined;
        return value === undefined ? fallback : value;
    }

    function escapeForRegExp(text) {
        return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    }

    // Asked once, without the browser's password prompt; a server that does not answer leaves us what infotexts say
    // themselves.
    function askForScorers() {
        if (scorers) return;
        scorers = [];
        fetch(SCHEMA, {credentials: "omit"})
            .then((answer) => (answer.ok ? answer.json() : {}))
            .then((schema) => {
                scorers = (Array.isArray(schema.scorers) ? schema.scorers : []).concat(schema.panel || []);
                Object.values(states).forEach((state) => {
                    state.key = null;
                });
                update();
            })
            .catch(() => {});
    }

    function keysOf(scorer) {
        return [scorer.key].concat(scorer.former_keys || []);
    }

    // --- which image has which score -------------------------------------------------------------------------------

    // {key, score} in an infotext's settings line, or null. Any scorer's key counts; the prompt above does not. A score
    // whose model is named beside it is one, whoever the scorer is.
    function foundInInfotext(text) {
        const keys = [option("key", "ImageReward"), "ImageReward"].concat(...(scorers || []).map(keysOf));
        const line = String(text).split("\n").pop();
        const known = line.match(
            new RegExp("(?:^|, )(" + keys.map(escapeForRegExp).join("|") + "): " + NUMBER + "(?=,|$)"),
        );
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

    // One score or null per gallery position, if the server told them of this very gallery.
    function told(info, count) {
        const scores = resultOf(info).scores;
        return Array.isArray(scores) && scores.length === count ? scores : null;
    }

    // What each score means, in words, by gallery position; where the upscale button replaced an image, its score is
    // another's.
    function meaningsByPosition(info, scores) {
        const result = resultOf(info);
        const meanings =
            Array.isArray(result.meanings) && result.meanings.length === scores.length ? result.meanings : [];
        const near = 0.51 * Math.pow(10, -option("decimals", 4));
        return scores.map((score, i) =>
            score !== null && meanings[i] && Math.abs(score - result.scores[i]) <= near ? meanings[i] : null,
        );
    }

    // How many masks the host puts after each inpainted image.
    function masksEach() {
        return typeof opts === "object" && opts ? Number(!!opts.return_mask) + Number(!!opts.return_mask_composite) : 0;
    }

    // The gallery position of each infotext: masks follow each image in the gallery, but have no infotext of their own.
    function positionsOfTexts(info, count) {
        const first = info.index_of_first_image || 0;
        const texts = (info.infotexts || []).slice(0, count);
        const images = Math.max(0, texts.length - first);
        const scores = told(info, count) || [];
        const scored = scores.map((score, i) => i).filter((i) => scores[i] !== null);
        if (texts.length < count && scored.length === images) {
            return texts.map((_, k) => (k < first ? k : scored[k - first]));
        }
        const masks = masksEach();
        const step = texts.length < count && masks && images * (1 + masks) <= count - first ? 1 + masks : 1;
        return texts.map((_, k) => (k < first ? k : first + (k - first) * step));
    }

    // One score or null per gallery position. Infotexts are the truth where each position has one (the upscale button
    // replaces one of them and nothing else); with masks in between, the server says which position has which score.
    function scoresByPosition(info, count) {
        const ranked = resultOf(info).ranks && resultOf(info).scores; // a panel's ranks stand in no infotext
        if (Array.isArray(ranked) && ranked.length === count) return ranked;
        const first = info.index_of_first_image || 0;
        const texts = (info.infotexts || []).slice(0, count);
        const own = texts.slice(first);
        if (own.length > 1 && own.every((text) => text === own[0])) {
            // Loopback gives every image the text of its first one: unless the server tells, better no score than a
            // wrong one
            return told(info, count) || Array(count).fill(null);
        }
        if (texts.length !== count && told(info, count)) {
            return told(info, count);
        }
        const scores = Array(count).fill(null);
        positionsOfTexts(info, count).forEach((position, k) => {
            if (k >= first) scores[position] = scoreInInfotext(texts[k]);
        });
        return scores;
    }

    function parse(text) {
        try {
            return JSON.parse(text) || {};
        } catch (error) {
            return {};
        }
    }

    // --- badges ----------------------------------------------------------------------------------------------------

    function rgb(hex) {
        const value = parseInt(String(hex).replace("#", "").slice(0, 6), 16) || 0;
        return [value >> 16, (value >> 8) & 255, value & 255];
    }

    // From the low over the middle to the high colour over [low, high], with a text colour that can be read on it.
    function colours(score, low, high) {
        const share = high > low ? Math.min(1, Math.max(0, (score - low) / (high - low))) : 1;
        const stops = [
            option("colour_low", "#b3261e"),
            option("colour_middle", "#8a6100"),
            option("colour_high", "#146c2e"),
        ].map(rgb);
        const half = share < 0.5 ? 0 : 1;
        const mixed = stops[half].map((channel, i) =>
            Math.round(channel + (stops[half + 1][i] - channel) * (2 * share - half)),
        );
        const bright = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2] > 150;
        return {background: "rgb(" + mixed.join(",") + ")", text: bright ? "#000" : "#fff"};
    }

    // By what the badge shows, so that a thumbnail marked 0.50 is not below 0.50.
    function reaches(score, threshold) {
        return threshold === null || Number(score.toFixed(2)) >= threshold;
    }

    // The badge of a score in an element; none for null. `text` is what stands there, by default the score.
    function setBadge(element, score, best, range, text) {
        let badge = element.querySelector(":scope > .imagereward-badge");
        if (score === null) {
            if (badge) badge.remove();
            return;
        }
        if (!badge) {
            badge = document.createElement("span");
            badge.className = "imagereward-badge notranslate";
            element.appendChild(badge);
        }
        const colour = colours(score, range[0], range[1]);
        const shown = text || score.toFixed(2);
        const look = shown + colour.background;
        if (badge.dataset.look !== look) {
            badge.dataset.look = look;
            badge.textContent = shown;
            badge.style.backgroundColor = colour.background;
            badge.style.color = colour.text;
        }
        setClass(badge, "imagereward-best", best);
    }

    function setClass(element, name, wanted) {
        if (element.classList.contains(name) !== wanted) {
            element.classList.toggle(name, wanted);
        }
    }

    function setAttribute(element, name, value) {
        if (value === null) {
            if (element.hasAttribute(name)) element.removeAttribute(name);
        } else if (element.getAttribute(name) !== value) {
            element.setAttribute(name, value);
        }
    }

    function isBest(state, score) {
        return score !== null && state.best === score && state.count > 1;
    }

    // The score of an image that stands somewhere in large, by its address.
    function scoreOf(state, image) {
        return image && state.scores.has(image.src) ? state.scores.get(image.src) : null;
    }

    // What that score means, for a tooltip, or null.
    function meaningOf(state, image) {
        return (image && state.meanings && state.meanings.get(image.src)) || null;
    }

    // The score of the image in large, which has no thumbnail button of its own.
    function paintPreview(state) {
        const preview = state.gallery.querySelector(".preview");
        if (!preview) return;
        const image = preview.querySelector("[data-testid='detailed-image']");
        const score = scoreOf(state, image);
        setBadge(preview, score, isBest(state, score), state.range);
        if (image) setAttribute(image, "title", meaningOf(state, image));
    }

    // What a screen reader says of a thumbnail beside its number.
    function description(state, score, below) {
        if (score === null) return null;
        return (
            "score " +
            score.toFixed(2) +
            (isBest(state, score) ? ", the best" : "") +
            (below ? ", below the threshold" : "")
        );
    }

    function paintBadges(state) {
        for (const list of LISTS) {
            state.gallery.querySelectorAll(list).forEach((button) => {
                const image = button.querySelector("img");
                const score = scoreOf(state, image);
                const below = score !== null && !reaches(score, state.threshold);
                setBadge(button, score, isBest(state, score), state.range);
                setClass(button, "imagereward-below", below && !state.hide);
                setAttribute(button, "aria-description", description(state, score, below));
                setAttribute(button, "title", meaningOf(state, image));
            });
        }
        paintPreview(state);
    }

    function paint(tab, state) {
        paintBadges(state);
        gallery.arrange(tab, state);
        gallery.paintBar(tab, state);
    }

    // --- the update ------------------------------------------------------------------------------------------------

    function newState(tab) {
        return {
            tab: tab,
            threshold: null,
            hide: false,
            sort: false,
            pinned: false,
            known: [],
            scores: new Map(),
            range: [-2, 2],
            count: 0,
        };
    }

    // What tells one job from another: the upscale button changes the infotexts of a job, and not these.
    function jobOf(info, text) {
        return info.job_timestamp ? JSON.stringify([info.job_timestamp, info.all_seeds, info.all_prompts]) : text;
    }

    function read(state, text, sources) {
        const info = option("badges", true) ? parse(text) : {};
        const result = resultOf(info);
        const job = jobOf(info, text);
        if (state.job !== job) {
            state.job = job;
            if (!state.pinned) Object.assign(state, {threshold: null, hide: false, sort: false});
        }
        const scores = scoresByPosition(info, sources.length);
        state.scores = new Map(sources.map((source, i) => [source, scores[i]]));
        state.byPosition = scores;
        const meanings = meaningsByPosition(info, scores);
        state.meanings = new Map(sources.map((source, i) => [source, meanings[i]]));
        state.first = Math.min(info.index_of_first_image || 0, sources.length);
        state.texts = positionsOfTexts(info, sources.length);
        state.known = scores.filter((score) => score !== null);
        state.count = state.known.length;
        state.hidden = result.hidden || 0;
        state.summary = result.summary || "";
        state.empty = sources.length ? "" : result.empty || "";
        state.best = state.count ? Math.max(...state.known) : null;
        state.range = scaleOf(info) || [state.count ? Math.min(...state.known) : 0, state.best || 0];
    }

    function updateTab(tab) {
        const app = gradioApp();
        const root = app.querySelector("#" + tab + "_gallery");
        const textarea = app.querySelector("#generation_info_" + tab + " textarea");
        if (!root || !textarea) return;
        askForScorers();
        const state = states[tab] || (states[tab] = newState(tab));
        if (state.gallery !== root) {
            state.gallery = root;
            // another image chosen in the preview changes an attribute only, which the host's callbacks don't notice
            root.addEventListener("load", () => paintPreview(state), true);
        }
        state.textarea = textarea;
        const list = LISTS.map((one) => root.querySelectorAll(one + " img")).find((found) => found.length) || [];
        const sources = Array.from(list, (image) => image.src);
        const text = gallery.withoutSeen(textarea.value);
        const key = text + "\n" + sources.join("\n");
        if (state.key !== key) {
            state.key = key;
            read(state, text, sources);
            gallery.group(state);
            gallery.newResult(tab, state);
        }
        paint(tab, state);
    }

    function update() {
        TABS.forEach(updateTab);
    }

    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(update);
    }
    // for the files beside this one, for tests and for other extensions: what is on screen, by image address
    Object.assign(gallery, {
        LISTS: LISTS,
        states: states,
        update: update,
        paint: paint,
        paintBadges: paintBadges,
        newState: newState,
        option: option,
        reaches: reaches,
        isBest: isBest,
        scoreOf: scoreOf,
        masksEach: masksEach,
        setBadge: setBadge,
        setClass: setClass,
        setAttribute: setAttribute,
        scoreInInfotext: scoreInInfotext,
        scoresByPosition: scoresByPosition,
    });
})();

// What of a gallery is seen, and in which order: best first and hidden images. The gallery's own list stays as it is,
// since the host knows images by their place in it; so every way through it is led along what is seen: arrow keys, the
// large view, the lightbox, "send to", Save and Zip.
(function () {
    "use strict";

    const gallery = (window.imagerewardGallery = window.imagerewardGallery || {});
    // the last entry of the text that Save and Zip are given
    const SEEN = /,\s*"imagereward_seen":\s*"[\d: ]*"\s*}\s*$/;
    const THUMBNAILS = ".thumbnails button.thumbnail-item";

    // --- what is seen ----------------------------------------------------------------------------------------------

    // Which image each position belongs to: masks to the one before them; grids, and what other scripts appended, to
    // none.
    function group(state) {
        const count = state.byPosition.length;
        const mains = state.texts.slice(state.first);
        const gaps = mains.slice(1).map((position, k) => position - mains[k] - 1);
        const each = gaps.length ? Math.min(...gaps) : gallery.masksEach();
        state.leads = Array.from({length: count}, (_, i) => i);
        mains.forEach((main) => {
            for (let i = main + 1; i <= main + each && i < count && !mains.includes(i); i++) state.leads[i] = main;
        });
        state.mains = new Set(mains);
    }

    function isSeen(state, position) {
        const score = state.byPosition[state.leads[position]];
        return !state.hide || score === null || gallery.reaches(score, state.threshold);
    }

    // The positions in the order shown: grids, images (with their masks), what others appended.
    function ordered(state) {
        const all = state.leads.map((_, i) => i);
        if (!state.sort) return all;
        const part = (i) => (i < state.first ? 0 : state.mains.has(state.leads[i]) ? 1 : 2);
        const value = (i) => (state.byPosition[state.leads[i]] === null ? -Infinity : state.byPosition[state.leads[i]]);
        const better = (a, b) => (value(a) === value(b) ? 0 : value(b) - value(a));
        return all.sort(
            (a, b) =>
                part(a) - part(b) || (part(a) === 1 ? better(a, b) : 0) || state.leads[a] - state.leads[b] || a - b,
        );
    }

    function isArranged(state) {
        return state.sort || state.seen.length < state.leads.length;
    }

    function thumbnails(state) {
        return Array.from(state.gallery.querySelectorAll(THUMBNAILS));
    }

    function selected(state) {
        return thumbnails(state).findIndex((button) => button.classList.contains("selected"));
    }

    // Show it: by CSS alone, so that every image keeps its place in gradio's list.
    function arrange(tab, state) {
        const order = ordered(state);
        state.seen = order.filter((position) => isSeen(state, position));
        const shown = new Set(state.seen);
        const rank = new Map(order.map((position, i) => [position, String(i)]));
        for (const list of gallery.LISTS) {
            state.gallery.querySelectorAll(list).forEach((button, i) => {
                gallery.setClass(button, "imagereward-hidden", rank.has(i) && !shown.has(i));
                const place = state.sort && rank.has(i) ? rank.get(i) : "";
                if (button.style.order !== place) button.style.order = place;
            });
        }
        gallery.setClass(state.gallery, "imagereward-sorted", state.sort);
        gallery.setClass(state.gallery, "imagereward-nothing", state.leads.length > 0 && !state.seen.length);
        leaveHidden(state, order, shown);
        writeSeen(state);
        paintLightbox();
    }

    // The image in large was hidden: go on to the next one that is not.
    function leaveHidden(state, order, shown) {
        const at = order.indexOf(selected(state));
        if (at < 0 || shown.has(order[at]) || !shown.size) return;
        const next = order.slice(at).find((i) => shown.has(i));
        thumbnails(state)[next === undefined ? state.seen[state.seen.length - 1] : next].click();
    }

    // Best first was switched on: the best is what one wants to look at.
    function selectFirst(state) {
        const best = state.seen.find((position) => position >= state.first);
        if (selected(state) >= 0 && best !== undefined) thumbnails(state)[best].click();
    }

    // --- Save and Zip ----------------------------------------------------------------------------------------------

    function withoutSeen(text) {
        return text.replace(SEEN, "}");
    }

    // The host's Save and Zip are given the gallery as it was made and this text, which tells them what of it is seen:
    // "position:infotext" of each image. The rest of the text stays as it is, to the letter.
    function writeSeen(state) {
        const plain = withoutSeen(state.textarea.value);
        const entries = state.seen.map((position) => position + ":" + state.texts.indexOf(state.leads[position]));
        const known = entries.filter((entry) => !entry.endsWith(":-1"));
        const text = isArranged(state)
            ? plain.replace(/}\s*$/, ', "imagereward_seen": "' + known.join(" ") + '"}')
            : plain;
        if (state.textarea.value !== text) {
            state.textarea.value = text;
            state.textarea.dispatchEvent(new Event("input", {bubbles: true}));
        }
    }

    // --- ways through the gallery ----------------------------------------------------------------------------------

    // The gallery that is on screen, if it is arranged in any way.
    function visibleState() {
        return Object.values(gallery.states).find(
            (state) => state.seen && state.gallery.isConnected && state.gallery.offsetParent !== null,
        );
    }

    function lightbox() {
        const modal = document.getElementById("lightboxModal");
        return modal && modal.style.display !== "none" && modal.style.display !== "" ? modal : null;
    }

    // From one image in large to the next one seen, or to the first or last.
    function step(state, key) {
        const at = state.seen.indexOf(selected(state));
        const count = state.seen.length;
        if (at < 0 || !count) return;
        const to = {ArrowRight: (at + 1) % count, ArrowLeft: (at + count - 1) % count, Home: 0, End: count - 1}[key];
        const button = thumbnails(state)[state.seen[to]];
        button.click();
        const image = document.getElementById("modalImage");
        if (lightbox() && image) {
            image.src = button.querySelector("img").src;
            if (image.style.display === "none")
                lightbox().style.setProperty("background-image", "url(" + image.src + ")");
            setTimeout(() => lightbox() && lightbox().focus(), 10);
        }
    }

    // In the grid the arrow keys go from thumbnail to thumbnail.
    function stepFocus(state, button, key) {
        const grid = Array.from(state.gallery.querySelectorAll(gallery.LISTS[0]));
        const at = state.seen.indexOf(grid.indexOf(button));
        const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: state.seen.length - 1}[key];
        if (at >= 0 && to >= 0 && to < state.seen.length) grid[state.seen[to]].focus();
    }

    function stop(event) {
        event.preventDefault();
        event.stopImmediatePropagation();
    }

    function onKey(event) {
        if (
            !["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key) ||
            event.altKey ||
            event.ctrlKey ||
            event.metaKey
        )
            return;
        const state = visibleState();
        const inLightbox = lightbox() !== null && lightbox().contains(event.target);
        if (!state || !(inLightbox || state.gallery.contains(event.target))) return;
        const thumbnail = event.target.closest(gallery.LISTS[0]);
        if (!inLightbox && thumbnail && !state.gallery.querySelector(".preview")) {
            stop(event);
            stepFocus(state, thumbnail, event.key);
        } else if (isArranged(state) && selected(state) >= 0) {
            stop(event);
            step(state, event.key);
        }
    }

    function onClick(event) {
        const target = event.target;
        if (!(target instanceof Element)) return;
        const state = visibleState();
        if (!state || !isArranged(state)) return;
        const arrow = lightbox() ? target.closest(".modalPrev, .modalNext") : null;
        if (arrow) {
            stop(event);
            step(state, arrow.classList.contains("modalPrev") ? "ArrowLeft" : "ArrowRight");
        } else if (
            target.matches("[data-testid='detailed-image']") &&
            state.gallery.contains(target) &&
            !opensLightbox()
        ) {
            stop(event); // gradio's own: the left half goes back, the right half goes on
            const box = target.getBoundingClientRect();
            step(state, event.clientX - box.left < box.width / 2 ? "ArrowLeft" : "ArrowRight");
        }
    }

    function opensLightbox() {
        return Boolean(
            typeof opts === "object" && opts && opts.js_modal_lightbox && document.getElementById("lightboxModal"),
        );
    }

    // Without an image chosen, the host's "send to" buttons take the gallery's first: here, the first that is seen.
    function leadSending() {
        const original = window.extract_image_from_gallery;
        if (typeof original !== "function" || original.imagereward) return;
        window.extract_image_from_gallery = (images) => {
            const state = visibleState();
            const first =
                state && isArranged(state) && selected(state) < 0
                    ? state.seen.find((i) => i >= state.first)
                    : undefined;
            return first !== undefined && Array.isArray(images) && first < images.length
                ? [images[first]]
                : original(images);
        };
        window.extract_image_from_gallery.imagereward = true;
    }

    // --- the lightbox ----------------------------------------------------------------------------------------------

    function paintLightbox() {
        leadSending();
        const modal = document.getElementById("lightboxModal");
        const image = document.getElementById("modalImage");
        if (!modal || !image) return;
        const state = Object.values(gallery.states).find((one) => one.scores.has(image.src));
        const score = state ? gallery.scoreOf(state, image) : null;
        gallery.setBadge(
            modal,
            score,
            score !== null && gallery.isBest(state, score),
            score === null ? null : state.range,
        );
        const badge = modal.querySelector(":scope > .imagereward-badge");
        if (badge) gallery.setAttribute(badge, "role", "status");
    }

    document.addEventListener("keydown", onKey, true);
    document.addEventListener("click", onClick, true);
    document.addEventListener(
        "load",
        (event) => {
            if (event.target.id === "modalImage") paintLightbox();
        },
        true,
    );
    Object.assign(gallery, {group: group, arrange: arrange, selectFirst: selectFirst, withoutSeen: withoutSeen});
})();

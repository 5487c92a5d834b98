// A panel's disagreement on the badges of the gallery: "0.43 ±0.21", and in words where the pointer rests.
//
// Badges are made by image_reward.js; here they only get an attribute, which the style sheet shows. The server says of
// each gallery position how much the scorers disagree, and what each one's own value is.
(function () {
    "use strict";

    const TABS = ["txt2img", "img2img"];
    const LISTS = [".grid-container button.thumbnail-item", ".thumbnails button.thumbnail-item"];

    function resultIn(text) {
        try {
            return ((JSON.parse(text) || {}).extra_generation_params || {})["ImageReward result"] || {};
        } catch (error) {
            return {};
        }
    }

    function set(element, name, value) {
        if (value === null ? element.hasAttribute(name) : element.getAttribute(name) !== value) {
            if (value === null) element.removeAttribute(name);
            else element.setAttribute(name, value);
        }
    }

    // "PickScore 21.30, CLIP 0.27"
    function ownValues(result, position) {
        const values = Object.entries(result.by_scorer || {}).filter((pair) => typeof pair[1][position] === "number");
        return values.map((pair) => pair[0] + " " + pair[1][position].toFixed(2)).join(", ");
    }

    function updateTab(tab) {
        const app = gradioApp();
        const gallery = app.querySelector("#" + tab + "_gallery");
        const textarea = app.querySelector("#generation_info_" + tab + " textarea");
        if (!gallery || !textarea) return;
        const result = resultIn(textarea.value);
        const disagreements = Array.isArray(result.disagreements) ? result.disagreements : [];
        for (const list of LISTS) {
            const thumbnails = gallery.querySelectorAll(list);
            thumbnails.forEach((button, position) => {
                const badge = button.querySelector(":scope > .imagereward-badge");
                if (!badge) return;
                const known = thumbnails.length === disagreements.length && typeof disagreements[position] === "number";
                set(badge, "data-disagreement", known ? disagreements[position].toFixed(2) : null);
                set(badge, "title", known ? ownValues(result, position) : null);
            });
        }
    }

    if (typeof onAfterUiUpdate === "function") {
        onAfterUiUpdate(() => TABS.forEach(updateTab));
    }
})();

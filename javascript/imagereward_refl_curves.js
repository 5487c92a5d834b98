// The curves of the ReFL tab, as SVG.
(function () {
    "use strict";

    const COLOURS = ["#2a78d6", "#d6612a", "#2a9d5c", "#8a4fbf", "#b58900"];
    const refl = window.imagerewardRefl = window.imagerewardRefl || {};

    // What a killed process had done after its last saved state is told again by the resumed one.
    function withoutLostSteps(all) {
        let kept = [];
        for (const event of all) {
            if (event.type === refl.schema.events.resumed) {
                kept = kept.filter((old) => (old.step || 0) <= event.step);
            }
            kept.push(event);
        }
        return kept;
    }

    // One figure per measure of a run's events.
    function curves(events) {
        const clean = withoutLostSteps(events);
        const steps = clean.filter((event) => event.type === refl.schema.events.step), marks = clean.filter((event) => event.type === refl.schema.events.evaluation);
        const series = [["reward of training samples", steps.map((e) => [e.step, e.reward])], ["held-out reward", marks.map((e) => [e.step, e.reward])]];
        for (const name of Object.keys((marks[0] || {}).judges || {})) {
            series.push(["judge: " + name, marks.map((e) => [e.step, e.judges[name]])]);
        }
        series.push(["seed diversity", marks.map((e) => [e.step, e.diversity])], ["denoising error", marks.map((e) => [e.step, e.eps_mse])]);
        return series.filter(([, points]) => points.length).map(([title, points], index) => curve(title, points, COLOURS[index % COLOURS.length]));
    }

    function curve(title, points, colour) {
        points = points.filter(([, y]) => typeof y === "number");
        if (!points.length) {
            return refl.make("figure");
        }
        const width = 260, height = 120, xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
        const low = Math.min(...ys), high = Math.max(...ys), left = Math.min(...xs), wide = Math.max(...xs) - left || 1, tall = high - low || 1;
        const across = (x) => 6 + (x - left) / wide * (width - 12), down = (y) => high === low ? height / 2 : height - 20 - (y - low) / tall * (height - 40);
        const svg = part("svg", {viewBox: `0 0 ${width} ${height}`});
        // where it started: what is above and below is what training changed
        svg.append(part("line", {x1: 6, x2: width - 6, y1: down(ys[0]), y2: down(ys[0]), stroke: "currentColor", "stroke-opacity": 0.3, "stroke-dasharray": "3 3"}));
        svg.append(part("polyline", {points: points.map(([x, y]) => `${across(x)},${down(y)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2}));
        svg.append(part("circle", {cx: across(xs[xs.length - 1]), cy: down(ys[ys.length - 1]), r: 3, fill: colour}));
        const words = {fill: "currentColor", "font-size": 10};
        if (high !== low) {
            svg.append(part("text", {x: 6, y: 11, ...words}, high.toPrecision(3)), part("text", {x: 6, y: height - 4, ...words}, low.toPrecision(3)));
        }
        svg.append(part("text", {x: width - 6, y: height - 4, "text-anchor": "end", ...words}, `update ${xs[xs.length - 1]}`));
        return refl.make("figure", {}, svg, refl.make("figcaption", {textContent: `${title}: ${ys[0].toPrecision(3)} → ${ys[ys.length - 1].toPrecision(3)}`}));
    }

    function part(tag, attributes, text) {
        const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [name, value] of Object.entries(attributes)) {
            node.setAttribute(name, value);
        }
        node.textContent = text || "";
        return node;
    }

    refl.curves = curves;
})();

"use strict";
// Numbers for the runs that a filter leaves. These functions repeat rerank/evaluation/significance/base/corrections.py (adjust),
// rerank/leaderboard/standings.py and first_stage_gains.py (retest), and bootstrapped_front.py (front). P-values of pairs do not depend
// on the other runs, so they come from the build; only the corrections are repeated. They do not touch the page.
const numbers = (() => {
  const FACTORS = {
    none: () => () => 1,
    bonferroni: (m) => () => m,
    holm: (m) => (i) => m - i,
    hochberg: (m) => (i) => m - i,
    bh: (m) => (i) => m / (i + 1),
    by: (m) => { let sum = 0; for (let i = 1; i <= m; i++) sum += 1 / i; return (i) => (m / (i + 1)) * sum; },
  };
  const STEPS_UP = new Set(["hochberg", "bh", "by"]);
  const RUNNING = new Set(["holm", ...STEPS_UP]);

  // Adjusts p-values: a step-down procedure is a running maximum from the smallest p-value, a step-up procedure a running minimum from the largest.
  function adjust(p, correction) {
    const order = p.map((_, at) => at).sort((a, b) => p[a] - p[b] || a - b), factor = FACTORS[correction](p.length), adjusted = new Array(p.length);
    const ranks = order.map((_, i) => i), up = STEPS_UP.has(correction), running = RUNNING.has(correction);
    let last = up ? Infinity : 0;
    for (const i of up ? ranks.reverse() : ranks) {
      const value = p[order[i]] * factor(i);
      last = running ? (up ? Math.min(last, value) : Math.max(last, value)) : value;
      adjusted[order[i]] = Math.min(1, last);
    }
    return adjusted;
  }

  // Repeats the tests by measure m among the runs that are shown: all pairs, the gains over first stages, and the comparisons with the baseline.
  function retest(board, m, shown) {
    const table = board.tables[m], count = board.runs.length;
    const pairP = (a, b) => { const low = Math.min(a, b), high = Math.max(a, b); return table.p[low * count - (low * (low + 1)) / 2 + high - low - 1]; };
    const better = (a, b) => table.means[a] > table.means[b];
    const order = [...shown].sort((a, b) => table.places[a] - table.places[b]);
    const places = new Map(order.map((run, at) => [run, at + 1])), beats = new Map(order.map((run) => [run, []])), beaten = new Map(order.map((run) => [run, 0]));
    const runs = [...shown].sort((a, b) => a - b), pairs = runs.flatMap((a, at) => runs.slice(at + 1).map((b) => [a, b]));
    const family = (tests) => adjust(tests.map(([a, b]) => pairP(a, b)), table.correction).map((p) => p <= table.alpha);
    const decided = table.p ? family(pairs) : pairs.map(() => false);
    pairs.forEach(([a, b], at) => {
      if (!decided[at]) return;
      const [above, below] = better(a, b) ? [a, b] : [b, a];
      beats.get(above).push(places.get(below));
      beaten.set(below, beaten.get(below) + 1);
    });
    beats.forEach((found) => found.sort((a, b) => a - b));
    const lost = new Set(order.length ? beats.get(order[0]) : []), tied = new Set(order.filter((run) => !lost.has(places.get(run))));
    const gained = runs.filter((run) => board.runs[run].before !== null), gains = new Map();
    if (table.p) family(gained.map((run) => [run, board.runs[run].before])).forEach((significant, at) => gains.set(gained[at], significant));
    let marks = null;
    if (table.baseline !== null) {
      const others = runs.filter((run) => run !== table.baseline), differ = family(others.map((run) => [run, table.baseline]));
      marks = new Map(others.map((run, at) => [run, differ[at] ? (better(run, table.baseline) ? "↑" : "↓") : ""]));
    }
    return { places, beats, beaten, tied, gains, marks, pairs: pairs.length, significant: decided.filter(Boolean).length };
  }

  // Topics of the bootstrap samples by xorshift32 (Marsaglia 2003), as in bootstrapped_front.py. Returns [draws][topics] counts.
  const TAIL = 0.025, sampled = new Map();
  function samples(topics) {
    if (!sampled.has(topics)) {
      const draws = Math.max(100, Math.min(1000, Math.floor(1000000 / topics)));
      let state = 2463534242;
      sampled.set(topics, Array.from({ length: draws }, () => {
        const counts = new Array(topics).fill(0);
        for (let at = 0; at < topics; at++) {
          state = (state ^ (state << 13)) >>> 0;
          state = (state ^ (state >>> 17)) >>> 0;
          state = (state ^ (state << 5)) >>> 0;
          counts[Math.floor((state * topics) / 4294967296)] += 1;
        }
        return counts;
      }));
    }
    return sampled.get(topics);
  }

  // The Pareto front of runs with these costs and per-topic scores: shares of the samples in which each is on it, and the band.
  function front(costs, values) {
    const topics = values[0].length, levels = [...new Set(costs)].sort((a, b) => a - b), levelOf = costs.map((cost) => levels.indexOf(cost));
    const draw = (weights) => {
      const means = values.map((row) => Math.round((1e9 * row.reduce((sum, value, at) => sum + value * weights[at], 0)) / topics) / 1e9), highest = levels.map(() => -Infinity);
      means.forEach((mean, run) => { highest[levelOf[run]] = Math.max(highest[levelOf[run]], mean); });
      const best = [];
      highest.forEach((value, level) => best.push(level ? Math.max(best[level - 1], value) : value));
      return { best, on: means.map((mean, run) => mean === highest[levelOf[run]] && (levelOf[run] === 0 || mean > best[levelOf[run] - 1])) };
    };
    const drawn = samples(topics).map(draw), whole = draw(new Array(topics).fill(1)), draws = drawn.length, first = Math.floor(TAIL * draws);
    const bounds = levels.map((_, level) => drawn.map((one) => one.best[level]).sort((a, b) => a - b));
    return {
      levels, best: whole.best, on: whole.on, low: bounds.map((row) => row[first]), high: bounds.map((row) => row[draws - 1 - first]),
      shares: costs.map((_, run) => drawn.filter((one) => one.on[run]).length / draws),
    };
  }

  // [4, 7, 8, 9] becomes "4, 7–9".
  function ranges(places) {
    const groups = [];
    for (const place of places) {
      const last = groups[groups.length - 1];
      if (last && place === last[1] + 1) last[1] = place; else groups.push([place, place]);
    }
    return groups.map(([from, to]) => (from === to ? String(from) : `${from}–${to}`)).join(", ");
  }
  return { adjust, retest, front, ranges };
})();

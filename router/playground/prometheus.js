// Reads what `/metrics` says. Pure.

/** Samples of a text in Prometheus' format: `[{ name, labels, value }]`. */
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? "").matchAll(/(\w+)="((?:\\.|[^"\\])*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
    }
    samples.push({ name: match[1], labels, value: match[3] === "+Inf" ? Infinity : Number(match[3]) });
  }
  return samples;
}

/** Sum of a metric over the samples that `where` lets through; undefined when there is none. */
export function sum(samples, name, where = () => true) {
  const found = samples.filter((sample) => sample.name === name && where(sample.labels));
  return found.length ? found.reduce((total, { value }) => total + value, 0) : undefined;
}

/**
 * Who gets how much of what clients ask each name for: `[{ name, version, share, shadow }]`, both parts
 * from 0 to 1, the largest share of a name first. Empty without a routing table.
 */
export function split(samples) {
  const parts = new Map();
  for (const { name: metric, labels, value } of samples) {
    const part = { sconce_route_share: "share", sconce_route_shadow_share: "shadow" }[metric];
    if (part === undefined || !(value > 0)) continue;
    const { model_name: name, version } = labels;
    const key = JSON.stringify([name, version]);
    parts.set(key, { name, version, share: 0, shadow: 0, ...parts.get(key), [part]: value });
  }
  return [...parts.values()].sort((a, b) => a.name.localeCompare(b.name) || b.share - a.share || b.shadow - a.shadow);
}

/**
 * A quantile of what a histogram observed between two scrapes, in its unit; undefined when it
 * observed nothing. Linear inside a bucket, as Prometheus has it.
 */
export function quantile(before, now, name, q, where = () => true) {
  const counts = (samples) => {
    const byLimit = new Map();
    for (const { name: other, labels, value } of samples) {
      if (other !== `${name}_bucket` || !where(labels)) continue;
      const limit = labels.le === "+Inf" ? Infinity : Number(labels.le);
      byLimit.set(limit, (byLimit.get(limit) ?? 0) + value);
    }
    return byLimit;
  };
  const [old, young] = [counts(before), counts(now)];
  const buckets = [...young].map(([limit, count]) => [limit, count - (old.get(limit) ?? 0)]).sort(([a], [b]) => a - b);
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return undefined;
  let [low, below] = [0, 0];
  for (const [limit, count] of buckets) {
    if (count >= q * total) {
      if (limit === Infinity) return low;
      return low + ((limit - low) * (q * total - below)) / (count - below);
    }
    [low, below] = [limit, count];
  }
  return low;
}

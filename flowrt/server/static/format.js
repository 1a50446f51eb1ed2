// Formatting of numbers and durations for people.

export function count(value) {
  return value.toLocaleString("en-US");
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value >= 100) return Math.round(value).toLocaleString("en-US");
  return value >= 10 ? value.toFixed(1) : value.toPrecision(2);
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0.001) return `${(value * 1e6).toFixed(0)} µs`;
  if (value < 1) return `${(value * 1e3).toPrecision(value < 0.01 ? 2 : 3)} ms`.replace("1.00e+3", "1000");
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 60) return `${value.toFixed(1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

// The same without a needless fraction: 4.00 s becomes 4 s.
export function short(value) {
  return value >= 1 && value < 60 ? `${+value.toFixed(value < 10 ? 1 : 0)} s` : value === 0 ? "0 s" : seconds(value);
}

export function percent(share) {
  return share > 0 && share < 0.01 ? "<1 %" : `${Math.round(share * 100)} %`;
}

// Progress rounds down, so that only a finished batch shows 100 %.
export function progress(share) {
  return `${Math.floor(Math.min(1, share) * 100)} %`;
}

export function bytes(value) {
  return value < 1e9 ? `${Math.round(value / 1e6)} MB` : `${(value / 1e9).toFixed(1)} GB`;
}

export function clock(epoch) {
  return new Date(epoch * 1000).toLocaleTimeString([], { hour12: false });
}

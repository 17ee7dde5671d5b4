// In a page that has loaded @rudderstack/analytics-js or the older rudder-sdk-js: make the calls, as a site does, and answer what failed.
// Arguments: the daemon's URL, a write key, how the site wants its events sent, the calls.
"use strict";

const [url, writeKey, way, calls, answer] = arguments;
const how = {
  xhr: {},
  batch: { queueOptions: { batch: { enabled: true, maxItems: 100, flushInterval: 300 } } },
  beacon: { useBeacon: true },
}[way];

const failed = [];
for (const kind of ["error", "warn"]) {
  console[kind] = (...words) => failed.push(words.join(" "));
}
const analytics = rudderanalytics.RudderAnalytics ? new rudderanalytics.RudderAnalytics() : rudderanalytics;
analytics.load(writeKey, url, { configUrl: url, ...how });

const make = {
  identify: (message) => analytics.identify(message.userId, message.traits),
  track: (message) => analytics.track(message.event, message.properties),
  group: (message) => analytics.group(message.groupId, message.traits),
  page: (message) => analytics.page(message.name),
  alias: (message) => analytics.alias(message.userId),
};
for (const [method, message] of calls) make[method](message);

// It reports to nobody: what was not taken stays in its queues. A beacon's leaves when the page is left.
const kept = () =>
  Object.keys(localStorage)
    .filter((name) => /\.(queue|batchQueue|inProgress)$/.test(name))
    .filter((name) => !["[]", "{}", "null"].includes(localStorage[name].replaceAll('"', "")));
const since = Date.now();
let quiet = 0;
const watch = setInterval(() => {
  quiet = analytics.getAnonymousId() && !kept().length ? quiet + 1 : 0;
  if (way !== "beacon" ? quiet < 10 && Date.now() - since < 15000 : kept().length === 0 && Date.now() - since < 5000) return;
  clearInterval(watch);
  answer(way === "beacon" ? failed : [...failed, ...kept()]);
}, 50);

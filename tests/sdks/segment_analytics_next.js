// In a page that has loaded @segment/analytics-next: make the calls, as a site does, and answer what failed.
// Arguments: the daemon's URL, a write key, what the site says about its hosts and batching, the calls.
"use strict";

const [url, writeKey, way, calls, answer] = arguments;
const { host } = new URL(url);
const failed = [];
const batching = { deliveryStrategy: { strategy: "batching", config: { size: 100, timeout: 300 } } };
const destination = {
  v1: { apiHost: `${host}/v1`, protocol: "http" },
  "bare-host": { apiHost: host, protocol: "http" },
  batching: { apiHost: `${host}/v1`, protocol: "http", ...batching },
  "batching-bare-host": { apiHost: host, protocol: "http", ...batching },
}[way];

// With "settings", the site names its CDN only: the settings found there say where to send.
const integrations = destination && { "Segment.io": destination };
const analytics = AnalyticsNext.AnalyticsBrowser.load({ writeKey, cdnURL: url }, { integrations });
setTimeout(() => answer([...failed, "nothing was sent"]), 15000); // when no settings are found, calls wait for ever
analytics.on("error", (error) => failed.push(`${error.code}: ${error.reason}`));

const make = {
  identify: (message) => analytics.identify(message.userId, message.traits),
  track: (message) => analytics.track(message.event, message.properties),
  group: (message) => analytics.group(message.groupId, message.traits),
  page: (message) => analytics.page(message.name),
  screen: (message) => analytics.screen(message.name),
  alias: (message) => analytics.alias(message.userId),
};

(async () => {
  for (const [method, message] of calls) {
    const sent = await make[method](message);
    if (sent.failedDelivery()) failed.push(String(sent.failedDelivery().reason));
  }
  answer(failed);
})().catch((error) => answer([...failed, String(error)]));

// Post the calls of stdin to a data plane with an SDK that calls back for each call, as its users do; print what failed.
//   node node_callbacks.cjs URL WRITE_KEY rudder-gzip|rudder-worker|segment-6 < [["track", {"userId": …}], …]
"use strict";

const { readFileSync } = require("node:fs");

const [url, writeKey, way] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(0, "utf8"));
const patient = { retryCount: 8, logLevel: "none", errorHandler: () => {} };

const make = {
  "rudder-gzip": () => new (require("@rudderstack/rudder-sdk-node"))(writeKey, { dataPlaneUrl: url, gzip: true, ...patient }),
  "rudder-worker": () =>
    new (require("@rudderstack/analytics-js-service-worker").Analytics)(writeKey, `${url}/v1/batch`, patient),
  "segment-6": () => new (require("analytics-node"))(writeKey, { host: url, ...patient }),
};

async function main() {
  const failed = [];
  const client = make[way]();
  const answered = calls.map(
    ([method, message]) =>
      new Promise((resolve) => client[method](message, (error) => resolve(error && failed.push(String(error)))))
  );
  for (let sent = 0; sent < calls.length; sent += client.flushAt) await client.flush();
  await Promise.all(answered);
  process.stdout.write(JSON.stringify(failed));
  process.exit(0);
}

main();

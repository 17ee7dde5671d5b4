// Post the calls of stdin to a data plane with @rudderstack/rudder-sdk-node, as its users do; print what failed.
//   node rudder_sdk_node.cjs URL WRITE_KEY gzip|plain < [["track", {"userId": …}], …]
"use strict";

const { readFileSync } = require("node:fs");
const Analytics = require("@rudderstack/rudder-sdk-node");

const [dataPlaneUrl, writeKey, packing] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(0, "utf8"));

async function main() {
  const failed = [];
  const client = new Analytics(writeKey, { dataPlaneUrl, gzip: packing === "gzip", logLevel: "none", errorHandler: () => {}, retryCount: 8 });
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

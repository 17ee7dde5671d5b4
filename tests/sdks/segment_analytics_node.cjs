// Post the calls of stdin to a data plane with @segment/analytics-node, as its users do; print what failed.
//   node segment_analytics_node.cjs URL WRITE_KEY plain < [["track", {"userId": …}], …]
"use strict";

const { readFileSync } = require("node:fs");
const { Analytics } = require("@segment/analytics-node");

const [host, writeKey] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(0, "utf8"));

async function main() {
  const failed = [];
  const client = new Analytics({ writeKey, host });
  client.on("error", (error) => failed.push(String(error.reason ?? error.code)));
  for (const [method, message] of calls) client[method](message);
  await client.closeAndFlush({ timeout: 30000 });
  process.stdout.write(JSON.stringify(failed));
}

main();

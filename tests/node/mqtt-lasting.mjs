// mqtt.js on connections that fail: node mqtt-lasting.mjs URL TOPIC LEVEL QOS
// Publishes each line of its input; writes a line for each that is acknowledged, and for each that its reader is given.
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const [url, topic, level, qos] = process.argv.slice(2).map((one, at) => (at < 2 ? one : Number(one)));
const options = {
  protocolVersion: level,
  clean: false,
  keepalive: 1,
  reconnectPeriod: 50,
  connectTimeout: 2_000,
  ...(level === 5 && { properties: { sessionExpiryInterval: 3_600 } }),
};
const connect = async (role) => {
  const client = await mqtt.connectAsync(url, { ...options, clientId: `${topic}-${role}` });
  client.on("error", () => {}); // it reconnects
  return client;
};
const reader = await connect("reader");
reader.on("message", (_, payload) => console.log(`came ${payload}`));
await reader.subscribeAsync(topic, { qos });
const writer = await connect("writer");
console.log("ready");
for await (const line of createInterface({ input: process.stdin }))
  writer.publish(topic, line, { qos }, (error) => error || console.log(`acknowledged ${line}`));

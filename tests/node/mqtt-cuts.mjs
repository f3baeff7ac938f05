// mqtt.js on a connection that fails: node mqtt-cuts.mjs URL TOPIC
// Publishes each line of its input at QoS 1 and writes what its subscriber is given, a line for each message.
import { createInterface } from "node:readline";
import mqtt from "mqtt";

const [url, topic] = process.argv.slice(2);
const options = { clean: false, keepalive: 1, reconnectPeriod: 50, connectTimeout: 2_000 };
const reader = await mqtt.connectAsync(url, { ...options, clientId: `${topic}-reader` });
reader.on("message", (_, payload) => console.log(payload.toString()));
await reader.subscribeAsync(topic, { qos: 1 });
const writer = await mqtt.connectAsync(url, { ...options, clientId: `${topic}-writer` });
for (const client of [reader, writer]) client.on("error", () => {}); // it reconnects
for await (const line of createInterface({ input: process.stdin })) writer.publish(topic, line, { qos: 1 });

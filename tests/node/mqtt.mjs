// mqtt.js in the ways its README shows: node mqtt.mjs URL VERSION PREFIX [USER PASSWORD]
// Writes one line of JSON: what each scenario saw.
import { once } from "node:events";
import mqtt from "mqtt";

const [url, version, prefix, username, password] = process.argv.slice(2);
const protocolVersion = Number(version);
const options = {
  protocolVersion,
  username,
  password,
  connectTimeout: 10_000,
  reconnectPeriod: 50,
  ...(protocolVersion === 3 && { protocolId: "MQIsdp" }),
};
const connect = (more = {}) => mqtt.connectAsync(url, { ...options, ...more });

/** The next `count` messages of a client, as [topic, payload, qos, retain, properties]. */
function messages(client, count) {
  return new Promise((resolve) => {
    const found = [];
    client.on("message", (topic, payload, packet) => {
      found.push([topic, payload.toString(), packet.qos, packet.retain, packet.properties ?? null]);
      if (found.length === count) resolve(found);
    });
  });
}

async function presence() {
  const client = await connect();
  const found = messages(client, 3);
  const granted = await client.subscribeAsync(`${prefix}/presence/#`, { qos: 2 });
  for (const qos of [0, 1, 2]) await client.publishAsync(`${prefix}/presence/${qos}`, `Hello mqtt ${qos}`, { qos });
  const seen = await found;
  await client.endAsync();
  return { granted: granted[0].qos, seen: seen.map((one) => one.slice(0, 4)).sort() };
}

async function retained() {
  const client = await connect();
  await client.publishAsync(`${prefix}/retained`, "kept", { qos: 1, retain: true });
  const found = messages(client, 1);
  await client.subscribeAsync(`${prefix}/retained`, { qos: 1 });
  const [message] = await found;
  await client.endAsync();
  return message.slice(1, 4);
}

function lastingAs(part) {
  const properties = protocolVersion === 5 ? { sessionExpiryInterval: 1000 } : undefined;
  return { clean: false, clientId: `${prefix}-${part}`, ...(properties && { properties }) };
}

async function session() {
  const lasting = lastingAs("s");
  const first = await connect(lasting);
  await first.subscribeAsync(`${prefix}/session`, { qos: 1 });
  await first.endAsync();
  const publisher = await connect();
  for (let number = 0; number < 10; number++) await publisher.publishAsync(`${prefix}/session`, `${number}`, { qos: 1 });
  await publisher.endAsync();
  const second = mqtt.connect(url, { ...options, ...lasting });
  const [[connack], found] = await Promise.all([once(second, "connect"), messages(second, 10)]);
  await second.endAsync();
  return { present: connack.sessionPresent, payloads: found.map((one) => one[1]) };
}

async function will() {
  const watcher = await connect();
  const found = messages(watcher, 1);
  await watcher.subscribeAsync(`${prefix}/will`, { qos: 1 });
  const dying = await connect({ will: { topic: `${prefix}/will`, payload: "gone", qos: 1 }, reconnectPeriod: 0 });
  dying.stream.destroy();
  const [message] = await found;
  await watcher.endAsync();
  return message.slice(1, 3);
}

/** The connection is lost: it comes back by itself, and what was published meanwhile is sent. */
async function reconnect() {
  const client = await connect(lastingAs("r"));
  await client.subscribeAsync(`${prefix}/reconnect`, { qos: 1 });
  const found = messages(client, 1);
  client.stream.destroy();
  await once(client, "close");
  await client.publishAsync(`${prefix}/reconnect`, "queued", { qos: 1 });
  const [message] = await found;
  await client.endAsync();
  return message[1];
}

async function properties() {
  const client = await connect();
  const found = messages(client, 1);
  await client.subscribeAsync(`${prefix}/properties`, { qos: 1, properties: { subscriptionIdentifier: 3 } });
  await client.publishAsync(`${prefix}/properties`, "x", {
    qos: 1,
    properties: {
      contentType: "text/plain",
      responseTopic: "answers",
      correlationData: Buffer.from([0, 1]),
      userProperties: { a: ["1", "2"], b: "3" },
    },
  });
  const [message] = await found;
  await client.endAsync();
  const seen = message[4];
  return { ...seen, correlationData: [...seen.correlationData] };
}

/** Aliases of its own making in one direction, those of the broker in the other. */
async function aliases() {
  const publisher = await connect({ autoAssignTopicAlias: true });
  const reader = await connect({ properties: { topicAliasMaximum: 5 } });
  const found = messages(reader, 12);
  await reader.subscribeAsync(`${prefix}/aliases/+`, { qos: 1 });
  for (const part of "abcabcabcabc") await publisher.publishAsync(`${prefix}/aliases/${part}`, part, { qos: 1 });
  const seen = await found;
  await Promise.all([publisher.endAsync(), reader.endAsync()]);
  return seen.map((one) => one[0].at(-1) + one[1]).join(" ");
}

const scenarios = { presence, retained, session, will, reconnect, ...(protocolVersion === 5 && { properties, aliases }) };
const seen = await Promise.all(Object.entries(scenarios).map(async ([key, scenario]) => [key, await scenario()]));
console.log(JSON.stringify(Object.fromEntries(seen)));

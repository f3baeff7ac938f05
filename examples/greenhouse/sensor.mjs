// The same sensor with mqtt.js (`npm install mqtt`), over TCP or WebSocket:
//   node sensor.mjs cellar mqtt://127.0.0.1:1883
//   node sensor.mjs cellar ws://127.0.0.1:8000/mqtt
import mqtt from "mqtt";

const [name = "cellar", url = "mqtt://127.0.0.1:1883", first = "39"] = process.argv.slice(2);
let celsius = Number(first);

const client = mqtt.connect(url, {
  clientId: `sensor-${name}`,
  will: { topic: "chat", payload: `${name} is gone`, qos: 1 },
});

client.on("connect", () => client.subscribe(`alerts/${name}`, { qos: 1 }));
client.on("message", (topic, payload) => console.log("alert:", JSON.parse(payload).text));

setInterval(() => {
  client.publish(`readings/${name}`, JSON.stringify({ celsius: Math.round(celsius * 10) / 10 }), { qos: 1 });
  celsius += 2 * Math.random() - 1;
}, 1000);

// HTTP with keep-alive, large bodies both ways, streams that wait for each other. usage: http.js server|client PORT
const crypto = require("crypto");
const http = require("http");

const [role, port] = process.argv.slice(2);

function noise(size) {
  return crypto.createCipheriv("aes-128-ctr", Buffer.alloc(16), Buffer.alloc(16)).update(Buffer.alloc(size));
}

if (role === "server") {
  const server = http.createServer((request, response) => {
    const [, what, size] = request.url.split("/");
    if (what === "bytes") {
      response.end(noise(Number(size)));
    } else if (what === "echo") {
      request.pipe(response);
    } else {
      response.statusCode = 404;
      response.end("no such thing\n");
    }
  });
  server.listen(Number(port), "127.0.0.1");
  process.on("SIGTERM", () => {
    server.close(() => process.exit(0));
    server.closeAllConnections();
  });
} else {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 6 });
  const ask = (path, body) =>
    new Promise((resolve, reject) => {
      const options = { host: "127.0.0.1", port: Number(port), path, agent, method: body ? "POST" : "GET" };
      const request = http.request(options, (response) => {
        const sum = crypto.createHash("sha256");
        let size = 0;
        response.on("data", (data) => {
          sum.update(data);
          size += data.length;
        });
        response.on("end", () => resolve(`${path} ${response.statusCode} ${size} ${sum.digest("hex").slice(0, 16)}`));
        response.on("error", reject);
      });
      request.on("error", reject);
      request.end(body);
    });
  (async () => {
    for (let at = 0; at < 30; at++) console.log(await ask(`/bytes/${at * 997}`));
    const many = [];
    for (let at = 0; at < 40; at++) many.push(ask(`/bytes/${at * 50000}`), ask("/echo", noise(1 + at * 30000)));
    for (const line of await Promise.all(many)) console.log(line);
    console.log(await ask("/bytes/50000000"));
    console.log(await ask("/none"));
    agent.destroy();
  })().catch((error) => {
    console.log("failed", error);
    process.exit(1);
  });
}

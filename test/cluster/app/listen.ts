// An HTTP server that answers every path with where the call came in: `listen PORT...`.
import http from "node:http";

for (const port of process.argv.slice(2))
  http
    .createServer((request, response) => {
      const { localAddress, localPort, remoteAddress } = request.socket;
      const seen = {
        method: request.method,
        url: request.url,
        headers: request.headers,
        localAddress,
        localPort,
        remoteAddress,
      };
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(seen));
    })
    .listen(Number(port));

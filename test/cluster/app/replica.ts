// One of several instances of a service: says which one it is (HOSTNAME), and fails or is unwell while it is told to.
import http from "node:http";

let fails = false;
let isWell = true;

http
  .createServer((request, response) => {
    const { url = "/" } = request;
    if (request.method === "POST") {
      if (url === "/fail") fails = true;
      else if (url === "/sicken") isWell = false;
      else [fails, isWell] = [false, true];
      response.end();
    } else {
      response.statusCode = (url === "/health" ? !isWell : fails) ? 503 : 200;
      response.end(process.env["HOSTNAME"]);
    }
  })
  .listen(8080);

// An agent as anybody writes one: Express, a pool of kept connections, fetch, a queue. It asks a model for scores and knows
// nothing of the mesh, of users or of tracing, except for `/carry`, which is for applications that pass a token on
// themselves. Prints its port.
"use strict";
const http = require("node:http");
const express = require("express");

const MODEL = process.env.MODEL_URL;
const pool = new http.Agent({ keepAlive: true, maxSockets: 32 });
/** What each request came with, by its id. */
const heads = new Map();
/** Requests that wait to be released, by id. */
const held = new Map();
const queue = [];

/** Over a kept connection. @returns the status of the model's answer. */
function score(path, headers = {}) {
  return new Promise((resolve, reject) => {
    const asked = http.get(`${MODEL}${path}`, { agent: pool, headers }, (answer) => {
      answer.resume().on("end", () => resolve(answer.statusCode));
      answer.on("error", reject);
    });
    asked.on("error", reject);
  });
}

async function fetched(path) {
  const answer = await fetch(`${MODEL}${path}`);
  await answer.arrayBuffer();
  return answer.status;
}

const app = express();
app.param("id", (request, _response, next, id) => {
  heads.set(id, request.headers);
  next();
});

app.get("/ask/:id", async (request, response) => {
  response.json([await score(`/score/${request.params.id}`)]);
});

app.get("/fan/:id", async (request, response) => {
  const { id } = request.params;
  const calls = [0, 1, 2, 3].map((at) => (at % 2 === 0 ? score : fetched)(`/score/${id}.${at}`));
  response.json(await Promise.all(calls));
});

app.get("/chain/:id", async (request, response) => {
  const { id } = request.params;
  const first = await fetched(`/threaded/${id}.0`);
  response.json([first, await score(`/threaded/${id}.1`)]);
});

app.get("/retry/:id", async (request, response) => {
  const tried = [];
  while (tried.at(-1) !== 200 && tried.length < 3) tried.push(await score(`/flaky/${request.params.id}`));
  response.json(tried);
});

// The answer is sent before the work is done.
app.get("/later/:id", (request, response) => {
  const { id } = request.params;
  response.json([]);
  setTimeout(() => void score(`/score/${id}`), 100);
});

// Who takes it out of the queue is not who put it in: instrumentation loses the trace here.
app.get("/queue/:id", (request, response) => {
  queue.push(request.params.id);
  response.json([]);
});
setInterval(() => {
  for (const id of queue.splice(0)) void score(`/score/${id}`);
}, 50);

app.get("/hold/:id", async (request, response) => {
  const { id } = request.params;
  await new Promise((resolve) => held.set(id, resolve));
  response.json([await score(`/score/${id}`)]);
});

app.get("/carry/:id", async (request, response) => {
  const token = request.headers["txn-token"];
  response.json([
    await score(`/score/${request.params.id}`, token === undefined ? {} : { "txn-token": token }),
  ]);
});

// For the test, which asks the application itself.
app.get("/release", (request, response) => {
  held.get(request.query.id)?.();
  response.json(held.delete(request.query.id));
});
app.get("/heads", (_request, response) => {
  response.json(Object.fromEntries(heads));
});

const server = app.listen(0, "127.0.0.1", () => process.stdout.write(`${server.address().port}\n`));

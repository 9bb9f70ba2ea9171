// Stand-in of a chat model that speaks the OpenAI protocol, streaming as server-sent events when asked to.
import { answerJson, serve } from "./serve.ts";

const WORDS = ["Every", "call", "is", "authenticated,", "decided,", "countersigned", "and", "recorded."];

serve((request, body, response) => {
  if (request.method !== "POST" || request.url !== "/v1/chat/completions")
    return answerJson(response, { error: "not found" }, 404);
  const asked = JSON.parse(body) as { model: string; stream?: boolean };
  if (asked.stream !== true) {
    return answerJson(response, {
      object: "chat.completion",
      model: asked.model,
      choices: [{ index: 0, message: { role: "assistant", content: WORDS.join(" ") } }],
    });
  }
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
  let next = 0;
  const timer = setInterval(() => {
    const word = WORDS[next++];
    if (word === undefined) {
      clearInterval(timer);
      response.end("data: [DONE]\n\n");
      return;
    }
    response.write(
      `data: ${JSON.stringify({ object: "chat.completion.chunk", model: asked.model, choices: [{ index: 0, delta: { content: `${word} ` } }] })}\n\n`,
    );
  }, 15);
  response.on("close", () => clearInterval(timer));
});

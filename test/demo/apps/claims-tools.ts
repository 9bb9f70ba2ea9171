// Stand-in of an MCP server: tools of a claims desk over streamable HTTP.
import { answerJson, serve } from "./serve.ts";

interface Asked {
  readonly id?: number;
  readonly method?: string;
  readonly params?: { readonly name?: string };
}

const TOOLS = ["search_claims", "get_claim", "delete_claim"];

serve((request, body, response) => {
  if (request.method !== "POST" || request.url !== "/mcp")
    return answerJson(response, { error: "not found" }, 404);
  const { id, method, params } = JSON.parse(body) as Asked;
  if (method === "tools/list")
    return answerJson(response, { jsonrpc: "2.0", id, result: { tools: TOOLS.map((name) => ({ name })) } });
  if (method === "tools/call" && TOOLS.includes(params?.name ?? ""))
    return answerJson(response, {
      jsonrpc: "2.0",
      id,
      result: { content: [{ type: "text", text: `${params?.name}: 2 claims` }] },
    });
  return answerJson(response, { jsonrpc: "2.0", id, error: { code: -32601, message: "no such method" } });
});

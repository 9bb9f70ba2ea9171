// Stand-in of a model server that speaks the MLflow scoring protocol (`POST /invocations`, `GET /ping`) and the Open
// Inference Protocol (`POST /v2/models/fraud-scorer/infer`).
import { answerJson, serve } from "./serve.ts";

serve((request, body, response) => {
  if (request.method === "GET" && request.url === "/ping") return answerJson(response, {});
  if (request.method === "POST" && request.url === "/invocations") {
    const rows = (JSON.parse(body) as { dataframe_records?: { amount: number }[] }).dataframe_records ?? [];
    return answerJson(response, { predictions: rows.map((row) => (row.amount > 1000 ? 0.93 : 0.04)) });
  }
  if (request.method === "POST" && request.url === "/v2/models/fraud-scorer/infer")
    return answerJson(response, { model_name: "fraud-scorer", outputs: [{ name: "score", data: [0.04] }] });
  answerJson(response, { error: "not found" }, 404);
});

// Stand-in of an MLflow tracking server: just enough of its REST API for a trainer and a notebook.
import { answerJson, serve } from "./serve.ts";

const versions = new Map<string, number>();

serve((request, body, response) => {
  const path = (request.url ?? "").replace(/^\/(ajax-)?api\/2\.0\/mlflow/, "");
  const input = body === "" ? {} : (JSON.parse(body) as Record<string, unknown>);
  switch (`${request.method} ${path}`) {
    case "POST /runs/search":
      return answerJson(response, { runs: [{ info: { run_id: "r-17", status: "FINISHED" } }] });
    case "POST /runs/log-metric":
      return answerJson(response, {});
    case "POST /model-versions/create": {
      const name = String(input["name"]);
      const version = (versions.get(name) ?? 0) + 1;
      versions.set(name, version);
      return answerJson(response, { model_version: { name, version: String(version) } });
    }
    case "POST /model-versions/transition-stage":
      return answerJson(response, { model_version: { name: input["name"], current_stage: input["stage"] } });
    default:
      return answerJson(response, { error_code: "ENDPOINT_NOT_FOUND" }, 404);
  }
});

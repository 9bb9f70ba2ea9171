"""Logs a run as a training job does, with artifacts, and registers its model; then what the policy does not allow."""

import hashlib
import json
import os
import sys
import tempfile

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient


def main(tracking_uri: str) -> dict:
    mlflow.set_tracking_uri(tracking_uri)
    client = MlflowClient()
    experiment = mlflow.create_experiment("fraud")
    with mlflow.start_run(experiment_id=experiment) as run, tempfile.TemporaryDirectory() as folder:
        run_id = run.info.run_id
        mlflow.log_param("depth", 7)
        mlflow.log_params({"rate": 0.1, "trees": 300})
        for step in range(5):
            mlflow.log_metric("auc", 0.8 + step / 100, step=step)
        mlflow.set_tag("team", "fraud")
        large = os.path.join(folder, "weights.bin")
        data = os.urandom(1 << 20) * 32
        with open(large, "wb") as out:
            out.write(data)
        mlflow.log_artifact(large, "model")
        mlflow.log_text("name,score\na,1\n", "reports/scores for march.csv")
    found = client.get_run(run_id)
    artifacts = sorted(one.path for one in client.list_artifacts(run_id, "model"))
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(run_id, "model/weights.bin", folder)
        with open(path, "rb") as downloaded:
            same = hashlib.sha256(downloaded.read()).digest() == hashlib.sha256(data).digest()
        text = mlflow.artifacts.load_text(f"runs:/{run_id}/reports/scores for march.csv")
    client.create_registered_model("fraud-scorer")
    version = client.create_model_version("fraud-scorer", f"{found.info.artifact_uri}/model", run_id)
    runs = client.search_runs([experiment], filter_string="metrics.auc > 0.5")
    try:
        client.set_registered_model_alias("fraud-scorer", "champion", version.version)
        promoted = "allowed"
    except MlflowException as error:
        promoted = str(error)
    return {
        "runId": run_id,
        "status": found.info.status,
        "params": found.data.params,
        "auc": found.data.metrics["auc"],
        "history": len(client.get_metric_history(run_id, "auc")),
        "team": found.data.tags["team"],
        "artifacts": artifacts,
        "same": same,
        "text": text,
        "version": version.version,
        "runs": len(runs),
        "promoted": promoted,
    }


print(json.dumps(main(sys.argv[1])))

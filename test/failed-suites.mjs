// A reporter of jest's that writes down which suites failed; run.mjs runs them once more in CI.
import { appendFileSync } from "node:fs";
import { relative } from "node:path";

export default class FailedSuites {
  onTestResult(test, result) {
    if (result.numFailingTests === 0 && !result.testExecError) return;
    appendFileSync(process.env.COUNTERSIGN_FAILED_SUITES, `${relative(process.cwd(), test.path)}\n`);
  }
}

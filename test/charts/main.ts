// `node test/charts/main.ts`: brings the generated files of charts/ up to date. A test fails when they are not.
import { writeStaleFiles } from "./generated-files.ts";

const written = writeStaleFiles();
process.stdout.write(written.length === 0 ? "up to date\n" : `wrote ${written.join(", ")}\n`);

import { availableParallelism } from "node:os";

// Native ESM through swc; see CONTRIBUTING.md for why `--experimental-vm-modules` must be set (test/run.mjs does).
export default {
  testEnvironment: "node",
  extensionsToTreatAsEsm: [".ts"],
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  testPathIgnorePatterns: ["/node_modules/", "/dist/"],
  modulePathIgnorePatterns: ["<rootDir>/dist/"],
  transform: {
    "^.+\\.ts$": [
      "@swc/jest",
      {
        jsc: {
          parser: { syntax: "typescript" },
          target: "es2024",
          experimental: { keepImportAttributes: true },
        },
        module: { type: "es6" },
        sourceMaps: "inline",
      },
    ],
  },
  // Two at least: much of a test is waiting.
  maxWorkers: Math.max(2, availableParallelism() - 1),
  // Only what hangs meets it: a busy machine may be ten times as slow as a quiet one.
  testTimeout: 240_000,
};

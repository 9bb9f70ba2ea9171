import { describe, expect, test } from "@jest/globals";
import type { AccessClass } from "../../../sidecar/core/policy/call.ts";
import type { Classified } from "../../../sidecar/core/policy/classified.ts";
import type { RetrySettings } from "../../../sidecar/core/traffic/traffic.ts";
import {
  causeOfAnswer,
  type FailureCause,
  grpcVerdict,
  isNamed,
  isRepeatable,
  retryAfterMs,
  verdictOf,
} from "../../../sidecar/outbound/retry.ts";
import { createField } from "../../../sidecar/wire/field.ts";

const SETTINGS: RetrySettings = {
  attempts: 2,
  on: [],
  onlyAccess: [],
  idempotent: [],
  budgetPercent: 20,
  perTryTimeoutMs: undefined,
};
const fields = (values: Readonly<Record<string, string>>) =>
  Object.entries(values).map(([name, value]) => createField(name, value));

test.each([
  { status: 200, values: {}, only: false, cause: undefined },
  { status: 500, values: {}, only: false, cause: undefined },
  { status: 429, values: {}, only: true, cause: undefined },
  { status: 502, values: {}, only: false, cause: "gateway-error" },
  { status: 503, values: {}, only: false, cause: "503" },
  { status: 504, values: {}, only: true, cause: "gateway-error" },
  { status: 200, values: { "grpc-status": "14" }, only: true, cause: "unavailable" },
  { status: 200, values: { "grpc-status": "14" }, only: false, cause: undefined },
  { status: 200, values: { "grpc-status": "8" }, only: true, cause: undefined },
])("an answer $status with $values stands for $cause", ({ status, values, only, cause }) => {
  expect(causeOfAnswer(status, fields(values), only)).toBe(cause);
});

const GRPC = { "content-type": "application/grpc+proto" };
test.each([
  { name: "an answer", status: 200, values: {}, only: false, verdict: "good" },
  { name: "a denial", status: 403, values: {}, only: false, verdict: "good" },
  { name: "an error", status: 500, values: {}, only: false, verdict: "bad" },
  { name: "the head of a gRPC answer", status: 200, values: GRPC, only: false, verdict: undefined },
  {
    name: "gRPC trailers alone",
    status: 200,
    values: { ...GRPC, "grpc-status": "13" },
    only: true,
    verdict: "bad",
  },
  {
    name: "a gRPC denial",
    status: 200,
    values: { ...GRPC, "grpc-status": "7" },
    only: true,
    verdict: "good",
  },
])("$name speaks for $verdict", ({ status, values, only, verdict }) => {
  expect(verdictOf(status, fields(values), only)).toBe(verdict);
});

test("gRPC trailers say how it went, others say nothing", () => {
  expect(grpcVerdict(fields({ "grpc-status": "0" }))).toBe("good");
  expect(grpcVerdict(fields({ "grpc-status": "14" }))).toBe("bad");
  expect(grpcVerdict(fields({ "x-sum": "1" }))).toBeUndefined();
});

test.each([
  { on: [], cause: "refused", named: true },
  { on: [], cause: "connect-failure", named: true },
  { on: [], cause: "503", named: false },
  { on: ["503"], cause: "503", named: true },
  { on: ["gateway-error"], cause: "503", named: true },
  { on: ["503"], cause: "gateway-error", named: false },
  { on: ["gateway-error"], cause: "timeout", named: true },
  { on: ["reset"], cause: "timeout", named: true },
  { on: ["503"], cause: "timeout", named: false },
  { on: ["unavailable"], cause: "unavailable", named: true },
] as const)("policy that names $on means $cause: $named", ({ on, cause, named }) => {
  expect(isNamed({ ...SETTINGS, on }, cause satisfies FailureCause)).toBe(named);
});

describe("an operation may be repeated", () => {
  const known = (name: string, access: AccessClass) =>
    ({ operation: { kind: "known", name, access, template: "" }, pending: undefined }) as Classified;
  const unknown = { operation: { kind: "unknown" }, pending: undefined } as Classified;
  const mcp = { ...known("tools.call", "read"), pending: { kind: "mcp" } } as Classified;
  test.each([
    { name: "when its class is read", method: "POST", of: known("runs.search", "read"), may: true },
    { name: "not when it is a write by POST", method: "POST", of: known("runs.create", "write"), may: false },
    { name: "when it is a write by PUT", method: "PUT", of: known("files.put", "write"), may: true },
    {
      name: "not when it executes, whatever the method",
      method: "GET",
      of: known("jobs.run", "execute"),
      may: false,
    },
    { name: "not when it administers", method: "DELETE", of: known("users.delete", "admin"), may: false },
    {
      name: "when it is not in the catalog and its method is idempotent",
      method: "GET",
      of: unknown,
      may: true,
    },
    { name: "not when it is not in the catalog and a POST", method: "POST", of: unknown, may: false },
    { name: "not as long as an MCP message is not read", method: "POST", of: mcp, may: false },
    { name: "not by WebSocket's CONNECT", method: "CONNECT", of: unknown, may: false },
    {
      name: "when its class is named",
      method: "POST",
      of: known("jobs.run", "execute"),
      only: ["execute"],
      may: true,
    },
    {
      name: "not when only others are named",
      method: "GET",
      of: known("runs.search", "read"),
      only: ["execute"],
      may: false,
    },
    {
      name: "not outside the catalog when classes are named",
      method: "GET",
      of: unknown,
      only: ["read"],
      may: false,
    },
    {
      name: "when the callee declares it idempotent",
      method: "POST",
      of: known("serving.invoke.chat", "execute"),
      idempotent: ["serving.invoke"],
      may: true,
    },
    {
      name: "not when it declares something else",
      method: "POST",
      of: known("serving.invoker", "execute"),
      idempotent: ["serving.invoke"],
      may: false,
    },
  ] as const)("$name", ({ method, of, may, ...more }) => {
    const settings = {
      ...SETTINGS,
      onlyAccess: "only" in more ? more.only : [],
      idempotent: "idempotent" in more ? more.idempotent : [],
    };
    expect(isRepeatable(settings, method, of)).toBe(may);
  });
});

test.each([
  { value: undefined, ms: 0 },
  { value: "0", ms: 0 },
  { value: "120", ms: 120_000 },
  { value: "-1", ms: 0 },
  { value: "1.5", ms: 0 },
  { value: "1e3", ms: 0 },
  { value: "99999999999", ms: 0 },
  { value: "Sat, 21 Nov 2026 10:00:30 GMT", ms: 30_000 },
  { value: "Sat, 21 Nov 2026 09:00:00 GMT", ms: 0 },
  { value: "2026-11-21T10:00:30Z", ms: 0 },
  { value: "Sat, 99 Nov 2026 10:00:30 GMT", ms: 0 },
])("Retry-After `$value` is $ms ms", ({ value, ms }) => {
  const nowMs = Date.UTC(2026, 10, 21, 10, 0, 0);
  expect(retryAfterMs(value === undefined ? [] : fields({ "retry-after": value }), nowMs)).toBe(ms);
});

// One entry for all kinds: from a valid object to its typed form, with what no schema can check (CEL, packs).
import { parsePack } from "../../sidecar/core/policy/catalog.ts";
import { createCelCompiler, createClaimCompiler } from "../../sidecar/core/policy/cel.ts";
import { assertNever, type Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type {
  AccessGrant,
  ExternalService,
  IdentityProvider,
  MeshConfig,
  MeshGateway,
  MeshRole,
  MeshRoleBinding,
  OperationCatalog,
  RoutePolicy,
  TrafficPolicy,
  Workload,
} from "../sources/store.ts";
import { parseAccessGrant } from "./access-grant.ts";
import { type AccessPolicy, parseAccessPolicy } from "./access-policy.ts";
import { parseExternalService } from "./external-service.ts";
import { parseIdentityProvider } from "./identity-provider.ts";
import { parseMeshConfig } from "./mesh-config.ts";
import { parseMeshGateway } from "./mesh-gateway.ts";
import { parseMeshRole, parseMeshRoleBinding } from "./mesh-role.ts";
import { parseOperationCatalog } from "./operation-catalog.ts";
import { parseRoutePolicy } from "./route-policy.ts";
import { parseTrafficPolicy } from "./traffic-policy.ts";
import { parseWorkload } from "./workload.ts";

export type TypedObject =
  | { readonly kind: "AccessPolicy" | "ClusterAccessPolicy"; readonly value: AccessPolicy }
  | { readonly kind: "AccessGrant"; readonly value: AccessGrant }
  | { readonly kind: "MeshRole"; readonly value: MeshRole }
  | { readonly kind: "MeshRoleBinding"; readonly value: MeshRoleBinding }
  | { readonly kind: "Workload"; readonly value: Workload }
  | { readonly kind: "ExternalService"; readonly value: ExternalService }
  | { readonly kind: "OperationCatalog"; readonly value: OperationCatalog }
  | { readonly kind: "IdentityProvider"; readonly value: IdentityProvider }
  | { readonly kind: "MeshGateway"; readonly value: MeshGateway }
  | { readonly kind: "RoutePolicy"; readonly value: RoutePolicy }
  | { readonly kind: "TrafficPolicy"; readonly value: TrafficPolicy }
  | { readonly kind: "MeshConfig"; readonly value: MeshConfig }
  | { readonly kind: "Namespace"; readonly value: ReadonlyMap<string, string> };

type Parsed = Result<TypedObject, readonly FieldProblem[]>;

/** @param acceptedAtMs when the object was first accepted, Unix milliseconds: a grant without approval starts then. */
export type ObjectParser = (object: ValidObject, acceptedAtMs?: number) => Parsed;

function typed<T>(result: Result<T, readonly FieldProblem[]>, wrap: (value: T) => TypedObject): Parsed {
  return result.ok ? { ok: true, value: wrap(result.value) } : result;
}

function refused(problems: readonly FieldProblem[]): Parsed | undefined {
  return problems.length > 0 ? { ok: false, error: problems } : undefined;
}

/** A parser for all kinds; it keeps compiled CEL so that the same expression is compiled once. */
export function createObjectParser(): ObjectParser {
  const cel = createCelCompiler();
  const claims = createClaimCompiler();
  const celProblems = (policy: AccessPolicy): FieldProblem[] =>
    policy.rules.flatMap((rule, index) => {
      if (rule.when?.cel === undefined) return [];
      const compiled = cel.compile(rule.when.cel);
      return compiled.ok
        ? []
        : [
            {
              reason: "InvalidCEL",
              path: `spec.rules[${index}].when.cel`,
              message: `does not compile: ${compiled.error}`,
            },
          ];
    });
  const packProblems = (catalog: OperationCatalog): FieldProblem[] =>
    catalog.packs.flatMap((pack, index) => {
      const parsed = parsePack(pack.name, pack.text);
      return parsed.ok ? [] : [{ path: `spec.packs[${index}].text`, message: parsed.error }];
    });
  const claimProblems = (binding: MeshRoleBinding): FieldProblem[] =>
    binding.subjects.flatMap(({ claim }, index) => {
      const compiled = claim === undefined ? undefined : claims.compile(claim);
      return compiled === undefined || compiled.ok
        ? []
        : [
            {
              reason: "InvalidCEL",
              path: `spec.subjects[${index}].claim`,
              message: `does not compile: ${compiled.error}`,
            },
          ];
    });
  return (object, acceptedAtMs) => {
    const { kind } = object;
    switch (kind) {
      case "AccessPolicy":
      case "ClusterAccessPolicy": {
        const parsed = typed(parseAccessPolicy(object), (value) => ({ kind, value }));
        return (
          (parsed.ok && parsed.value.kind === kind && refused(celProblems(parsed.value.value))) || parsed
        );
      }
      case "OperationCatalog": {
        const parsed = typed(parseOperationCatalog(object), (value) => ({ kind, value }));
        return (
          (parsed.ok && parsed.value.kind === kind && refused(packProblems(parsed.value.value))) || parsed
        );
      }
      case "AccessGrant":
        return typed(parseAccessGrant(object, acceptedAtMs), (value) => ({ kind, value }));
      case "MeshRole":
        return typed(parseMeshRole(object), (value) => ({ kind, value }));
      case "MeshRoleBinding": {
        const parsed = typed(parseMeshRoleBinding(object), (value) => ({ kind, value }));
        return (
          (parsed.ok && parsed.value.kind === kind && refused(claimProblems(parsed.value.value))) || parsed
        );
      }
      case "Workload":
        return typed(parseWorkload(object), (value) => ({ kind, value }));
      case "ExternalService":
        return typed(parseExternalService(object), (value) => ({ kind, value }));
      case "IdentityProvider":
        return typed(parseIdentityProvider(object), (value) => ({ kind, value }));
      case "MeshGateway":
        return typed(parseMeshGateway(object), (value) => ({ kind, value }));
      case "RoutePolicy":
        return typed(parseRoutePolicy(object), (value) => ({ kind, value }));
      case "TrafficPolicy":
        return typed(parseTrafficPolicy(object), (value) => ({ kind, value }));
      case "MeshConfig":
        return typed(parseMeshConfig(object), (value) => ({ kind, value }));
      case "Namespace":
        return { ok: true, value: { kind, value: object.labels } };
      default:
        return assertNever(kind);
    }
  };
}

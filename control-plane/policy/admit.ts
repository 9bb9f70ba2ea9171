// The checks of an object against the rest of the configuration, made before it comes into force (DOMAIN 3.6): what
// `compile` would find in a new version must not replace one that works. PURE.
import type { Pack } from "../../sidecar/core/policy/catalog.ts";
import { parsePack } from "../../sidecar/core/policy/catalog.ts";
import { createCelCompiler } from "../../sidecar/core/policy/cel.ts";
import { closestName } from "../sources/closest-name.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { OperationCatalog, RoutePolicy, TrafficPolicy, Workload } from "../sources/store.ts";
import {
  type ConditionContext,
  checkOperations,
  checkPolicy,
  operationNames,
  type PolicyProblem,
} from "./conditions.ts";
import { unsupportedFields } from "./external-service.ts";
import { NameFinder } from "./name-finder.ts";
import type { TypedObject } from "./typed-object.ts";
import {
  type ConfigurationMode,
  unsupportedGrantSettings,
  unsupportedMeshSettings,
  unsupportedRoleSettings,
} from "./unsupported-settings.ts";

/** @returns why the object must not come into force; empty when it may. Warnings are not among them. */
export type Admission = (object: TypedObject, valid: ValidObject) => readonly FieldProblem[];

export interface Admitter {
  /** Checks against the built-in packs and these catalogs. */
  against(catalogs: readonly OperationCatalog[]): Admission;
  /** Packs that a workload names and nobody defines: its operations would stay unknown. */
  unknownPacks(workload: Workload, catalogs: readonly OperationCatalog[]): readonly FieldProblem[];
}

export interface AdmitterOptions {
  /** Where the objects come from (default `directory`, which refuses more): what has no effect there is refused. */
  readonly mode?: ConfigurationMode;
}

/** @param packs text of the built-in operation packs by name. */
export function createAdmitter(
  packs: ReadonlyMap<string, string>,
  { mode = "directory" }: AdmitterOptions = {},
): Admitter {
  const cel = createCelCompiler();
  const parsed = new Map<string, Pack>();
  for (const [name, text] of packs) {
    const pack = parsePack(name, text);
    if (pack.ok) parsed.set(name, pack.value);
  }
  let last: { readonly catalogs: readonly OperationCatalog[]; readonly admission: Admission } | undefined;
  const sameAsLast = (catalogs: readonly OperationCatalog[]): boolean =>
    last?.catalogs.length === catalogs.length && catalogs.every((one, i) => one === last?.catalogs[i]);
  return {
    against(catalogs) {
      if (last === undefined || !sameAsLast(catalogs)) {
        const operations = operationsOf([...parsed.values()], catalogs);
        last = {
          catalogs,
          admission: createAdmission(
            { operations, roles: new Set(), cel, supportAll: false },
            { builtIn: packs, catalogs, mode },
          ),
        };
      }
      return last.admission;
    },
    unknownPacks(workload, catalogs) {
      const known = new Set([
        ...packs.keys(),
        ...catalogs.flatMap((catalog) => catalog.packs.map(({ name }) => name)),
      ]);
      return workload.ports.flatMap((port, i) =>
        port.packs.flatMap((pack, j): FieldProblem[] => {
          if (known.has(pack)) return [];
          const close = closestName(pack, [...known]);
          return [
            {
              path: `spec.ports[${i}].packs[${j}]`,
              message: `no operation pack is named \`${pack}\`, so its operations are unknown here`,
              hint: close === undefined ? "add an OperationCatalog" : `did you mean \`${close}\`?`,
            },
          ];
        }),
      );
    },
  };
}

function operationsOf(
  packs: readonly Pack[],
  catalogs: readonly OperationCatalog[],
): ConditionContext["operations"] {
  const names = new Set<string>();
  const withResource = new Set<string>();
  const take = (pack: Pack): void => {
    for (const row of pack.rows) {
      names.add(row.operation);
      if (row.resource !== undefined) withResource.add(row.operation);
    }
  };
  for (const pack of packs) take(pack);
  for (const { name, text } of catalogs.flatMap((catalog) => catalog.packs)) {
    const pack = parsePack(name, text); // one that does not parse was refused with its catalog
    if (pack.ok) take(pack.value);
  }
  return operationNames({ names, withResource });
}

function createAdmission(
  context: ConditionContext,
  against: {
    readonly builtIn: ReadonlyMap<string, string>;
    readonly catalogs: readonly OperationCatalog[];
    readonly mode: ConfigurationMode;
  },
): Admission {
  return (object, valid) => {
    switch (object.kind) {
      case "AccessPolicy":
      case "ClusterAccessPolicy":
        return errorsOf(checkPolicy(object.value, context));
      case "AccessGrant":
        return [
          ...errorsOf(checkOperations(object.value.operations ?? [], "spec.operations", context)),
          ...unsupportedGrantSettings(object.value, valid),
        ];
      case "MeshRole":
        return [
          ...errorsOf(
            object.value.rules.flatMap((rule, i) =>
              checkOperations(rule.operations, `spec.rules[${i}].operations`, context),
            ),
          ),
          ...unsupportedRoleSettings(object.value),
        ];
      case "ExternalService":
        return unsupportedFields(valid);
      case "RoutePolicy":
        return unknownOperations(object.value, context.operations);
      case "TrafficPolicy":
        return unknownIdempotent(object.value, context.operations);
      case "MeshConfig":
        return unsupportedMeshSettings(object.value, against.mode);
      case "OperationCatalog":
        return takenNames(object.value, against.builtIn, against.catalogs);
      default:
        return [];
    }
  };
}

function unknownNames(
  names: readonly string[],
  path: string,
  operations: ConditionContext["operations"],
): readonly FieldProblem[] {
  const finder = new NameFinder();
  return names.flatMap((name, i): FieldProblem[] =>
    operations.has(name)
      ? []
      : [
          {
            reason: "UnknownOperation",
            path: `${path}[${i}]`,
            message: `no operation pack defines \`${name}\`${finder.hint(name, operations.keys())}`,
          },
        ],
  );
}

function unknownOperations(
  { rules }: RoutePolicy,
  operations: ConditionContext["operations"],
): readonly FieldProblem[] {
  return rules.flatMap(({ matches }, i) =>
    unknownNames(matches[0]?.operations ?? [], `spec.rules[${i}].match.operations`, operations),
  );
}

function unknownIdempotent(
  { settings }: TrafficPolicy,
  operations: ConditionContext["operations"],
): readonly FieldProblem[] {
  return unknownNames(settings.retries?.idempotent ?? [], "spec.retries.idempotent", operations);
}

function errorsOf(problems: readonly PolicyProblem[]): readonly FieldProblem[] {
  return problems
    .filter(({ severity }) => severity === "error")
    .map(({ reason, path, message }) => ({ reason, path, message }));
}

/** Two packs of one name: which of them counts would depend on the order of files. */
function takenNames(
  catalog: OperationCatalog,
  builtIn: ReadonlyMap<string, string>,
  catalogs: readonly OperationCatalog[],
): readonly FieldProblem[] {
  return catalog.packs.flatMap(({ name }, i): FieldProblem[] => {
    const other = catalogs.find(
      (one) => one.name !== catalog.name && one.packs.some((pack) => pack.name === name),
    );
    const by = builtIn.has(name) ? "built in" : other && `defined in OperationCatalog \`${other.name}\``;
    return by === undefined
      ? []
      : [
          {
            path: `spec.packs[${i}].name`,
            message: `a pack named \`${name}\` is ${by} already`,
            hint: "choose another name",
          },
        ];
  });
}

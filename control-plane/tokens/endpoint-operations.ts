// What policies let somebody do at an endpoint, asked of the program that its sidecar decides by.
import { workloadOf } from "../../sidecar/core/identity/spiffe-id.ts";
import { createCaller } from "../../sidecar/core/policy/caller.ts";
import { type Pack, parsePack } from "../../sidecar/core/policy/catalog.ts";
import type { Compiled } from "../policy/compile.ts";
import { operationsOf, type UserOperations } from "../policy/user-operations.ts";
import type { ClusterState } from "../sources/store.ts";
import { userIdOf } from "./person.ts";
import type { TokenServiceDeps } from "./token-service.ts";

export interface EndpointOperationsDeps {
  readonly compiled: () => Pick<Compiled, "programs">;
  readonly state: () => Pick<ClusterState, "catalogs">;
  /** Text of the built-in packs, by name. */
  readonly packs: ReadonlyMap<string, string>;
  readonly nowMs: () => number;
}

const NONE: UserOperations = { every: false, allowed: [], others: [] };

/** Packs that were read are kept. */
export function endpointOperations(deps: EndpointOperationsDeps): TokenServiceDeps["operationsOf"] {
  const { compiled, state, packs, nowMs } = deps;
  const read = new Map<string, { readonly text: string; readonly pack: Pack | undefined }>();
  const pack = (name: string): Pack | undefined => {
    const text = packs.get(name) ?? catalogPack(state(), name);
    if (text === undefined) return undefined;
    const known = read.get(name);
    if (known?.text === text) return known.pack;
    const parsed = parsePack(name, text); // one that does not parse was refused with its catalog
    const found = parsed.ok ? parsed.value : undefined;
    read.set(name, { text, pack: found });
    return found;
  };
  return (person, roles, { namespace, name }, caller) => {
    const program = compiled().programs.get(`${namespace}/${name}`);
    const path = workloadOf(caller);
    if (program === undefined || path === undefined) return NONE;
    const { idp, type, amr, acr, authTime } = person;
    const authTimeMs = authTime === undefined ? undefined : authTime * 1_000;
    const facts = { local: true, labels: new Map(), owner: undefined, env: undefined };
    return operationsOf({
      user: { ...{ id: userIdOf(person), roles, idp, type, amr, acr }, authTimeMs },
      caller: createCaller({ ...path, ...facts, spiffeId: caller }),
      ...{ program, pack, nowMs: nowMs() },
    });
  };
}

function catalogPack({ catalogs }: Pick<ClusterState, "catalogs">, name: string): string | undefined {
  for (const { packs } of catalogs.values())
    for (const pack of packs) if (pack.name === name) return pack.text;
  return undefined;
}

// Keycloak's step-up authentication: a browser flow with two levels, of which the second asks for the password again, as
// its administration guide has it ("Step-up authentication").
import type { Keycloak } from "./keycloak.ts";

const FLOW = "levels";
const CONDITION = "conditional-level-of-authentication";
/** Values of `acr` and their levels, for the realm's attribute `acr.loa.map`. */
export const LEVELS = { bronze: 1, gold: 2 } as const;

interface Execution {
  readonly id: string;
  readonly displayName: string;
  readonly providerId?: string;
  readonly requirement: string;
}

export async function addLevels(keycloak: Keycloak, realm: string): Promise<void> {
  const at = `/${realm}/authentication`;
  const add = (flow: string, kind: "execution" | "flow", body: object): Promise<unknown> =>
    keycloak.admin("POST", `${at}/flows/${flow}/executions/${kind}`, body);
  const subflow = (flow: string, alias: string): Promise<unknown> =>
    add(flow, "flow", { alias, type: "basic-flow", provider: "not used", description: alias });
  await keycloak.admin("POST", `${at}/flows`, {
    ...{ alias: FLOW, providerId: "basic-flow", topLevel: true, builtIn: false },
  });
  await add(FLOW, "execution", { provider: "auth-cookie" });
  await subflow(FLOW, "by-level");
  for (const [level, form] of [
    [1, "auth-username-password-form"],
    [2, "auth-password-form"],
  ] as const) {
    await subflow("by-level", `level-${level}`);
    await add(`level-${level}`, "execution", { provider: CONDITION });
    await add(`level-${level}`, "execution", { provider: form });
  }
  const executions = (await keycloak.admin("GET", `${at}/flows/${FLOW}/executions`)) as Execution[];
  let level = 0;
  for (const execution of executions) {
    const { providerId, displayName, id } = execution;
    const isAlternative = providerId === "auth-cookie" || displayName === "by-level";
    const requirement = isAlternative ? "ALTERNATIVE" : providerId === undefined ? "CONDITIONAL" : "REQUIRED";
    await keycloak.admin("PUT", `${at}/flows/${FLOW}/executions`, { ...execution, requirement });
    if (providerId !== CONDITION) continue;
    level++;
    await keycloak.admin("POST", `${at}/executions/${id}/config`, {
      alias: `level ${level}`,
      config: { "loa-condition-level": String(level), "loa-max-age": "36000" },
    });
  }
  await keycloak.admin("PUT", `/${realm}`, { realm, browserFlow: FLOW });
}

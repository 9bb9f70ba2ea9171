// ExternalService: a host outside the mesh, typed; PURE.
import type { Result } from "../../sidecar/core/runtime/errors.ts";
import type { FieldProblem } from "../sources/field-problem.ts";
import type { ValidObject } from "../sources/schema.ts";
import type { ExternalService } from "../sources/store.ts";
import { FieldReader } from "./field-reader.ts";

/** `credential` is checked and not part of the typed form: this build does not sign in anywhere (see `unsupportedFields`). */
export function parseExternalService(object: ValidObject): Result<ExternalService, readonly FieldProblem[]> {
  const problems: FieldProblem[] = [];
  const fields = new FieldReader(object.spec, "spec", problems);
  fields.require("hosts");
  fields.object("credential", (credential) => {
    credential.require("type");
    credential.oneOf("type", ["tokenFederation"] as const);
    for (const name of ["tokenURL", "servicePrincipal", "scope"]) credential.text(name);
  });
  const plaintext = fields.oneOf("plaintext", ["http", "h2c", "grpc"] as const);
  const service: ExternalService = {
    name: object.name,
    namespace: object.namespace ?? "",
    hosts: fields.texts("hosts") ?? [],
    port: fields.integer("port", 1, 65535) ?? 443,
    packs: fields.texts("packs") ?? [],
    plaintext: plaintext === "grpc" ? "h2c" : plaintext,
  };
  fields.end();
  return problems.length > 0 ? { ok: false, error: problems } : { ok: true, value: service };
}

/** Calls are carried as they come: signing in over there is the application's. */
export function unsupportedFields(object: ValidObject): readonly FieldProblem[] {
  return typeof object.spec === "object" && object.spec !== null && "credential" in object.spec
    ? [
        {
          reason: "Unsupported",
          path: "spec.credential",
          message: "this build does not sign in to external services yet",
          hint: "remove it and let the application sign in itself",
        },
      ]
    : [];
}

// What callers are told of an ExternalService, as a discovery resource. PURE. The receiver's half is in sidecar/discovery/decode.ts.
import type { External as ExternalMessage } from "../../proto/gen/countersign/mesh/v1/External.ts";
import { messageCodec } from "../../proto/load.ts";
import type { WorkloadProgram } from "../../sidecar/core/policy/rule.ts";
import { encodeProgram } from "../../sidecar/core/policy/wire.ts";
import type { ExternalService } from "../sources/store.ts";
import { type BuiltResource, createResource } from "./build.ts";

const codec = messageCodec<ExternalMessage>("countersign.mesh.v1.External");

/** @param program of `Compiled.externals`. */
export function buildExternal(service: ExternalService, program: WorkloadProgram): BuiltResource {
  const id = `${service.namespace}/${service.name}`;
  const { hosts, plaintext = "" } = service;
  const body = codec.encode({ id, hosts: [...hosts], program: encodeProgram(program), plaintext });
  // Who cannot decide on calls to the outside must not think that there are none to decide on.
  return createResource("external", id, body, ["external", ...program.features]);
}

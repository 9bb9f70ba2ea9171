import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "@jest/globals";
import { ExternalAuthorities } from "../../../sidecar/certs/external-authorities.ts";
import { plainAuthority } from "../../fakes/plain-authority.ts";

const pem = async (name: string): Promise<string> =>
  (await plainAuthority(name, undefined, Date.UTC(2026, 10, 21))).certificate.toString();

describe("ExternalAuthorities", () => {
  test("makes another context when other authorities are named, and only then", async () => {
    const [one, two] = [await pem("one"), await pem("two")];
    const authorities = new ExternalAuthorities(undefined);
    const usual = authorities.context;
    expect(authorities.use(undefined)).toBe(false);
    expect(authorities.context).toBe(usual);
    expect(authorities.use([one])).toBe(true);
    const first = authorities.context;
    expect(first).not.toBe(usual);
    expect(authorities.use([one])).toBe(false);
    expect(authorities.context).toBe(first);
    expect(authorities.use([one, two])).toBe(true);
    expect(authorities.use([two])).toBe(true);
    expect(authorities.use(undefined)).toBe(true);
    expect(authorities.context).not.toBe(first);
  });

  test.each([
    { name: "is not there", write: (_file: string) => {} },
    {
      name: "holds no certificate that can be read",
      write: (file: string) =>
        writeFileSync(file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
    },
  ])("a file that $name is a setting that cannot be used", ({ write }) => {
    const dir = mkdtempSync(join(tmpdir(), "countersign-authorities-"));
    const file = join(dir, "ca.pem");
    write(file);
    expect(() => new ExternalAuthorities(file)).toThrow(expect.objectContaining({ code: "bad_config" }));
    rmSync(dir, { recursive: true });
  });
});

// What is in the images, in one place: the Dockerfile copies the same, and image-files.test.ts holds them equal.

/** The user of both images and of every sidecar; capture lets this user's traffic pass. */
export const PROXY_USER = 61600;
export const HOME_IN_IMAGE = "/opt/countersign";

/** What the build needs from the repository to make dist/ and the production dependencies. */
export const BUILD_INPUTS: readonly string[] = [
  "package.json",
  "package-lock.json",
  "tsconfig.json",
  "tsconfig.build.json",
  "test/run.mjs",
  "proto",
  "crds",
  "sidecar",
  "control-plane",
];

export interface CopiedFile {
  /** Relative to the folder of the built program. */
  readonly from: string;
  readonly to: string;
}

/** Production dependencies (`npm install --omit=dev`), in both images. */
export const DEPENDENCIES: readonly CopiedFile[] = [
  { from: "node_modules", to: `${HOME_IN_IMAGE}/node_modules` },
];

/** The program, in both images. */
export const PROGRAM: readonly CopiedFile[] = [
  { from: "package.json", to: `${HOME_IN_IMAGE}/package.json` },
  { from: "LICENSE", to: `${HOME_IN_IMAGE}/LICENSE` },
  { from: "dist", to: `${HOME_IN_IMAGE}/dist` },
];

/** `countersign` on the PATH, a link to the command line. */
export const COMMAND: { readonly link: string; readonly target: string } = {
  link: "/usr/local/bin/countersign",
  target: `${HOME_IN_IMAGE}/dist/control-plane/cli/main.js`,
};

/** Debian packages of the sidecar image beside the base; of each, the programs that capture calls. */
export const SIDECAR_PACKAGES: Readonly<Record<string, readonly string[]>> = {
  iptables: [
    "iptables-nft",
    "iptables-nft-restore",
    "iptables-nft-save",
    "ip6tables-nft",
    "ip6tables-nft-restore",
    "ip6tables-nft-save",
    "iptables-legacy",
    "iptables-legacy-restore",
    "iptables-legacy-save",
    "ip6tables-legacy",
    "ip6tables-legacy-restore",
    "ip6tables-legacy-save",
    "iptables",
    "iptables-restore",
    "iptables-save",
    "ip6tables",
    "ip6tables-restore",
    "ip6tables-save",
  ],
};

/** Names of the images on the test cluster. */
export const IMAGES = {
  controlPlane: "countersign.test/control-plane:dev",
  sidecar: "countersign.test/sidecar:dev",
  /** Workloads that know nothing of a mesh. */
  app: "countersign.test/app:dev",
} as const;

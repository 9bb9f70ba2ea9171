// The version of this build, as sidecars, pods and operators are told.
export const SOFTWARE_VERSION = "0.1.0";

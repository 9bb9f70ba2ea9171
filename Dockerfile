# The images of Countersign: `docker build --target control-plane .` and `docker build --target sidecar .`, for
# linux/amd64 and linux/arm64. What they hold is listed in test/cluster/image-files.ts; a test holds the two equal.

# dist/ is the same on every architecture, so it is built on the machine's own.
FROM --platform=$BUILDPLATFORM node:24-bookworm-slim AS build
WORKDIR /src
COPY package.json package.json
COPY package-lock.json package-lock.json
COPY tsconfig.json tsconfig.json
COPY tsconfig.build.json tsconfig.build.json
COPY LICENSE LICENSE
COPY test/run.mjs test/run.mjs
COPY proto proto
COPY crds crds
COPY sidecar sidecar
COPY control-plane control-plane
RUN npm install --ignore-scripts --no-audit --no-fund && npm run build && rm dist/.built

# Production dependencies of the target's architecture: one of them (koffi) is native, prebuilt.
FROM node:24-bookworm-slim AS dependencies
WORKDIR /src
COPY package.json package.json
COPY package-lock.json package-lock.json
RUN npm install --omit=dev --ignore-scripts --no-audit --no-fund

# Debian with Node's binary alone: no npm, no compiler, no development dependencies.
FROM debian:bookworm-slim AS control-plane
COPY --from=dependencies /usr/local/bin/node /usr/local/bin/node
COPY --from=dependencies /src/node_modules /opt/countersign/node_modules
COPY --from=build /src/package.json /opt/countersign/package.json
COPY --from=build /src/LICENSE /opt/countersign/LICENSE
COPY --from=build --chmod=755 /src/dist /opt/countersign/dist
RUN ln -s /opt/countersign/dist/control-plane/cli/main.js /usr/local/bin/countersign \
  && groupadd --gid 61600 countersign \
  && useradd --uid 61600 --gid 61600 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin countersign
USER 61600:61600
ENTRYPOINT ["countersign"]

# The same with iptables (both kinds, both families), which the init step needs and nothing else.
FROM control-plane AS sidecar
USER 0:0
RUN apt-get update && apt-get install --yes --no-install-recommends iptables && rm -rf /var/lib/apt/lists/*
USER 61600:61600

# slim, not alpine: the binaries of the embedded Postgres need glibc.
FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci
COPY tsconfig.json tsconfig.build.json ormconfig.ts ./
COPY src ./src
COPY deprecated ./deprecated
RUN npm run build

FROM node:24-slim
LABEL org.opencontainers.image.title="checkpoint-backend" \
      org.opencontainers.image.description="The memory of LangGraph agents: a HTTP JSON service that keeps checkpoints in Postgres" \
      org.opencontainers.image.licenses="MIT"
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./
# Without TypeScript, 24 MB: npm takes an optional peer of @nestjs/swagger, for its compiler plugin, from the lock.
RUN npm ci --omit=dev && rm -r node_modules/typescript && npm cache clean --force
COPY --from=build /app/dist ./dist
COPY LICENSE ./
# Used with EMBEDDED_POSTGRES=true only; mount a volume here to keep its data.
RUN mkdir .data && chown 1000:1000 .data
# The user node, by its number: runAsNonRoot cannot know a name.
USER 1000:1000
EXPOSE 5003
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["node", "dist/src/main.js", "healthcheck"]
# node itself, not npm, so that SIGTERM reaches it.
CMD ["node", "dist/src/main.js"]

# slim, not alpine: the binaries of the embedded Postgres need glibc.
FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci
COPY nest-cli.json tsconfig.json tsconfig.build.json ormconfig.ts ./
COPY src ./src
RUN npm run build

FROM node:24-slim
ENV NODE_ENV=production
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev && npm cache clean --force
COPY --from=build /app/dist ./dist
# Used with EMBEDDED_POSTGRES=true only; mount a volume here to keep its data.
RUN mkdir .data && chown node:node .data
USER node
EXPOSE 5003
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
  CMD ["node", "-e", "fetch('http://127.0.0.1:' + (process.env.PORT || 5003) + '/health/live').then((a) => process.exit(a.ok ? 0 : 1))"]
# node itself, not npm, so that SIGTERM reaches it.
CMD ["node", "dist/src/main.js"]

import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import type { NestApplicationOptions } from '@nestjs/common';
import type { RequestHandler } from '@nestjs/common/internal';
import { ExpressAdapter } from '@nestjs/platform-express';
import { answer } from './answer.js';
import { operationOf, type Operations } from './operations.js';
import { BACKLOG } from '../connections/backlog.js';
import { answerProblem } from '../problems/problem.filter.js';

/** What passes a request on, as Express's middleware does. */
export type Middleware = (
  request: IncomingMessage,
  response: ServerResponse,
  next: (error?: unknown) => void,
) => void;

interface Route {
  middleware: Middleware[];
  handler: RequestHandler;
}

/**
 * Express, with a short way for the operations: a POST whose URL is exactly a route's goes through `around` and `before`
 * to the handler that Nest registered for it, so guards, pipes, interceptors and filters run as ever. Express's own chain,
 * some 120 µs of CPU a request, does not. Everything else, and with `fast` false everything, takes Express's way, on which
 * `around` has to be registered. What is `before` an operation belongs to its handler on both ways, so that there is no
 * URL by which one is reached without it.
 *
 * Answers are written by Node's own methods, since on the short way a response has no others.
 */
export class ExactRoutesAdapter extends ExpressAdapter {
  /** What a request for the operation passes through last; asked when its route is made. */
  before: (operation: string) => Middleware[] = () => [];
  private readonly routes = new Map<string, Route>();

  constructor(
    private readonly fast: boolean,
    private readonly around: Middleware[],
    private readonly operations: Operations,
  ) {
    super();
  }

  override post(...args: [RequestHandler] | [path: unknown, RequestHandler]): unknown {
    const [path, handler] = args;
    if (typeof path !== 'string' || handler === undefined) {
      return super.post(...(args as [unknown, RequestHandler]));
    }
    const middleware = this.before(operationOf(path));
    this.routes.set(path, { middleware: [...this.around, ...middleware], handler });
    this.operations.add(path);
    return super.post(path, ((request: IncomingMessage, response: ServerResponse) => {
      this.run(0, { middleware, handler }, request, response);
    }) as RequestHandler);
  }

  override initHttpServer(options: NestApplicationOptions): void {
    super.initHttpServer(options);
    if (!this.fast) return;
    const server = this.getHttpServer() as Server;
    const express = this.getInstance<RequestListener>();
    server.removeListener('request', express);
    server.on('request', (request, response) => {
      const route = request.method === 'POST' ? this.routes.get(request.url ?? '') : undefined;
      if (route === undefined) express(request, response);
      else this.run(0, route, request, response);
    });
  }

  override listen(port: string | number, ...args: unknown[]): Server {
    const [host, callback] = args.length > 1 ? args : [undefined, args[0]];
    const options = { port: Number(port), backlog: BACKLOG, ...(typeof host === 'string' && { host }) };
    return (this.getHttpServer() as Server).listen(options, callback as () => void);
  }

  private run(at: number, route: Route, request: IncomingMessage, response: ServerResponse): void {
    const middleware = route.middleware[at];
    if (middleware === undefined) {
      void route.handler(request, response, () => undefined);
      return;
    }
    try {
      middleware(request, response, (error) => {
        if (error === undefined) this.run(at + 1, route, request, response);
        else answerProblem(error, response);
      });
    } catch (error) {
      // Whoever called it may have nobody who catches, and one request would end the process.
      answerProblem(error, response);
    }
  }

  override reply(response: ServerResponse, body: unknown, status?: number): void {
    if (status !== undefined) response.statusCode = status;
    answer(response, body);
  }

  override status(response: ServerResponse, status: number): void {
    response.statusCode = status;
  }

  override setHeader(response: ServerResponse, name: string, value: string): void {
    response.setHeader(name, value);
  }
}

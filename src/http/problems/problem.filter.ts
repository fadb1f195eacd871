import { STATUS_CODES, type ServerResponse } from 'node:http';
import { type ArgumentsHost, Catch, type ExceptionFilter, HttpException } from '@nestjs/common';
import {
  DomainError,
  type Fault,
  InvalidRequestError,
  UnstorableDocumentError,
} from '../../errors/errors.js';
import { answer } from '../pipeline/answer.js';
import { PROBLEMS, RETRY_AFTER_SECONDS } from './problem.js';

/** RFC 9457. `type` is stable; people read `detail`. */
export interface Problem {
  type: string;
  status: number;
  title: string;
  detail?: string;
  errors?: Fault[];
}

/** What the caller may know of an error. */
export function toProblem(error: unknown): Problem {
  if (error instanceof DomainError) {
    const { status, title } = PROBLEMS[error.code];
    return {
      type: `/problems/${error.code}`,
      status,
      title,
      detail: error.message,
      ...((error instanceof InvalidRequestError || error instanceof UnstorableDocumentError) && {
        errors: error.faults,
      }),
    };
  }
  if (error instanceof HttpException) return plain(error.getStatus(), error.message);
  // Anything else may quote SQL or user data, so none of its text leaves the process.
  return plain(500);
}

function plain(status: number, detail?: string): Problem {
  return { type: 'about:blank', status, title: STATUS_CODES[status] ?? 'Error', ...(detail && { detail }) };
}

/**
 * The problem of an answer, or of a part of it. What is not the caller's fault is handed to the request's log line, and what
 * passes has a `Retry-After`.
 */
export function noteProblem(error: unknown, response: ServerResponse): Problem {
  const problem = toProblem(error);
  if (problem.status >= 500) {
    response.err = error instanceof Error ? error : new Error(String(error));
    response.errStatus = problem.status;
  }
  if (problem.status === 503 && !response.headersSent) response.setHeader('Retry-After', RETRY_AFTER_SECONDS);
  return problem;
}

/** The only place that gives errors a status code. */
export function answerProblem(error: unknown, response: ServerResponse): void {
  const problem = noteProblem(error, response);
  if (response.headersSent) {
    response.destroy();
    return;
  }
  if (problem.status === 401) response.setHeader('WWW-Authenticate', 'Bearer');
  response.statusCode = problem.status;
  response.setHeader('Content-Type', 'application/problem+json; charset=utf-8');
  answer(response, problem);
}

@Catch()
export class ProblemFilter implements ExceptionFilter {
  catch(error: unknown, host: ArgumentsHost): void {
    answerProblem(error, host.switchToHttp().getResponse());
  }
}

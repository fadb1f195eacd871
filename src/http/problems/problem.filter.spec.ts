import { readFileSync } from 'node:fs';
import { NotFoundException } from '@nestjs/common';
import { InvalidRequestError, LimitExceededError } from '../../errors/errors.js';
import { PROBLEMS } from './problem.js';
import { toProblem } from './problem.filter.js';

describe('toProblem', () => {
  it('says which limit was exceeded', () => {
    expect(toProblem(new LimitExceededError('The body', 'BODY_LIMIT_BYTES', 10))).toEqual({
      type: '/problems/limit-exceeded',
      status: 413,
      title: 'Over a limit',
      detail: 'The body is over the limit BODY_LIMIT_BYTES = 10',
    });
  });

  it('lists every fault of a request', () => {
    const faults = [{ pointer: '#/writes/0/idx', detail: 'must be an integer' }];
    expect(toProblem(new InvalidRequestError(faults))).toMatchObject({ status: 422, errors: faults });
  });

  it('needs no type where the status says it all', () => {
    expect(toProblem(new NotFoundException('Cannot GET /x'))).toEqual({
      type: 'about:blank',
      status: 404,
      title: 'Not Found',
      detail: 'Cannot GET /x',
    });
  });

  it.each([new Error('insert into secrets'), 'a string', null, { status: 418, message: 'odd' }])(
    'keeps the text of %p to itself',
    (error) => {
      expect(toProblem(error)).toEqual({ type: 'about:blank', status: 500, title: 'Internal Server Error' });
    },
  );
});

it.each(Object.entries(PROBLEMS))('problems.md has %s, with its status', (code, { status, retry }) => {
  const page = readFileSync(new URL('../../../docs/reference/problems.md', import.meta.url), 'utf8');
  expect(page).toMatch(
    new RegExp(`^\\| \\[\`${code}\`\\]\\(#${code}\\) +\\| ${status} +\\| ${retry ? 'yes' : 'no'} `, 'm'),
  );
  expect(page).toMatch(new RegExp(`^## ${code}\\n\\n\\*\\*${status}\\.\\*\\*`, 'm'));
});

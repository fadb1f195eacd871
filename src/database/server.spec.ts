import { Settings } from '../config/env.js';
import { budgetOf } from './server.js';

const SERVER = { max: 100, reserved: 3, own: 0, others: 0 };

describe('the budget of connections', () => {
  const settings = (instances: number) =>
    new Settings({ DATABASE_POOL_MAX: '10', INSTANCES: String(instances) });

  it.each([
    { what: 'the pools fit', instances: 8, server: SERVER, isPooled: false, isNear: false },
    { what: 'the pools come near', instances: 9, server: SERVER, isPooled: false, isNear: true },
    {
      what: 'others take the rest',
      instances: 8,
      server: { ...SERVER, others: 8 },
      isPooled: false,
      isNear: true,
    },
    {
      what: 'there are more instances than said',
      instances: 1,
      server: { ...SERVER, own: 90 },
      isPooled: false,
      isNear: true,
    },
    {
      what: 'superusers keep more',
      instances: 8,
      server: { ...SERVER, reserved: 20 },
      isPooled: false,
      isNear: true,
    },
    {
      what: 'a pooler opens few for many',
      instances: 50,
      server: { ...SERVER, own: 20 },
      isPooled: true,
      isNear: false,
    },
    {
      what: 'a pooler opens many',
      instances: 1,
      server: { ...SERVER, own: 90 },
      isPooled: true,
      isNear: true,
    },
  ])('is near its end: $isNear when $what', ({ instances, server, isPooled, isNear }) => {
    expect(budgetOf(settings(instances), server, isPooled).isNear).toBe(isNear);
  });

  it('says pool × instances and what the server allows', () => {
    expect(budgetOf(settings(4), { ...SERVER, own: 2, others: 1 }, false).text).toBe(
      'a pool of 10 × 4 instances = 40 connections; 2 are open, and 1 of others; the server allows 97 (max_connections 100, 3 reserved)',
    );
  });
});

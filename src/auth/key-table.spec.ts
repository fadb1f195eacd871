import { jest } from '@jest/globals';
import { Logger } from '@nestjs/common';
import type { ApiKeyRepository } from './api-key.repository.js';
import { KeyTable } from './key-table.js';

describe('KeyTable', () => {
  it('says once why the keys cannot be read, until they can', async () => {
    jest.useFakeTimers();
    const warn = jest.spyOn(Logger.prototype, 'warn').mockReturnValue(undefined);
    let fault: Error | null = new Error('permission denied');
    const read = () => (fault === null ? Promise.resolve({ version: 1n, keys: [] }) : Promise.reject(fault));
    const table = new KeyTable({ findAll: read, version: read } as unknown as ApiKeyRepository);
    const lines = () => warn.mock.calls.splice(0).map(([line]) => String(line));
    try {
      await table.start();
      await jest.advanceTimersByTimeAsync(5000);
      expect(lines()).toEqual(['the keys cannot be read, and no key works yet: Error: permission denied']);
      fault = null;
      await jest.advanceTimersByTimeAsync(2000);
      expect(lines()).toEqual([]);
      fault = new Error('away');
      await jest.advanceTimersByTimeAsync(70_000);
      expect(lines()).toEqual(['the keys cannot be read, those read last go on: Error: away']);
    } finally {
      table.stop();
      warn.mockRestore();
      jest.useRealTimers();
    }
  });
});

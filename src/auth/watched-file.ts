import { constants } from 'node:fs';
import { open } from 'node:fs/promises';
import { Logger } from '@nestjs/common';

const LOOK_MS = 1000;
/** Far above any number of keys; what is larger is another file. */
const MAX_BYTES = 16 * 1024 * 1024;

/**
 * A file that is read again when its text changes. It is looked at, not watched: a mounted secret changes by a symbolic link
 * to a directory that is swapped, of which `fs.watch` hears nothing.
 */
export class WatchedFile {
  private readonly logger = new Logger('files');
  private text: string | null = null;
  private fault: string | null = null;
  private timer: NodeJS.Timeout | undefined;
  private stopped = false;

  /** `take` throws at a text that it cannot use. */
  constructor(
    private readonly path: string,
    private readonly take: (text: string) => void,
  ) {}

  /** @throws Error when the file cannot be read or used; later such a fault is logged, and what was taken before stays */
  async start(): Promise<void> {
    await this.look();
    this.lookLater();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  private async look(): Promise<void> {
    try {
      const text = await textOf(this.path);
      if (text !== this.text) {
        this.take(text);
        this.text = text;
        if (this.timer !== undefined) this.logger.log(`${this.path} has changed and is in use`);
      }
      this.fault = null;
    } catch (error) {
      throw new Error(`${this.path}: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      });
    }
  }

  private lookLater(): void {
    if (this.stopped) return;
    this.timer = setTimeout(() => {
      this.look()
        .catch((error: unknown) => {
          const { message } = error as Error;
          if (message !== this.fault) this.logger.error(`${message}; what it held before goes on`);
          this.fault = message;
        })
        .finally(() => {
          this.lookLater();
        });
    }, LOOK_MS).unref();
  }
}

/** @throws Error when it cannot be read, is no file or too large */
async function textOf(path: string): Promise<string> {
  // What a pipe has is gone once it is read, and nobody may be at its other end: opening it must not wait.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new Error('is no regular file');
    if (stat.size > MAX_BYTES) throw new Error(`is larger than ${MAX_BYTES} bytes`);
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

import { Logger } from '@nestjs/common';
import { textOfFile } from '../config/regular-file.js';

const LOOK_MS = 1000;

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
      const text = await textOfFile(this.path);
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

/** The arguments are wrong in a way that only the command itself can tell. Exit code 2. */
export class UsageError extends Error {}

/** What was asked for could not be done, for a reason that is told in full. Exit code 1. */
export class FailureError extends Error {}

/** Prints rows below their headings, in columns; nothing but the headings when there is no row. */
export function printTable(headings: readonly string[], rows: readonly (readonly string[])[]): void {
  const lines = [headings, ...rows];
  const widths = headings.map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)));
  for (const line of lines) {
    console.log(
      line
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join('  ')
        .trimEnd(),
    );
  }
}

export function printJson(value: unknown): void {
  console.log(JSON.stringify(value, null, 2));
}

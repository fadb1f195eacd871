/** Short names are near to many others: HOME is two letters from HOST. */
const LONG_NAME = 9;

/** A name in the environment that may have been meant for a setting. */
export interface Misspelt {
  name: string;
  /** The setting that is nearest to it. */
  meant: string;
}

/** The names that are not settings, and are a letter or two from one or begin with the same two words. */
export function misspeltAmong(names: readonly string[], settings: readonly string[]): Misspelt[] {
  return names
    .filter((name) => !settings.includes(name))
    .flatMap((name) => {
      const near = settings
        .map((setting) => ({ setting, distance: distanceOf(name.toUpperCase(), setting) }))
        .filter(
          ({ setting, distance }) =>
            distance <= (setting.length < LONG_NAME ? 1 : 2) || haveSameStart(name.toUpperCase(), setting),
        )
        .sort((a, b) => a.distance - b.distance);
      return near.slice(0, 1).map(({ setting: meant }) => ({ name, meant }));
    });
}

/** OpenTelemetry reads many names of its own. */
function haveSameStart(name: string, setting: string): boolean {
  const start = (text: string) => text.split('_', 2).join('_');
  return !name.startsWith('OTEL_') && name.includes('_') && start(name) === start(setting);
}

/** The Levenshtein distance: how many letters have to be added, removed or changed. */
function distanceOf(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (const [above, letter] of Array.from(a).entries()) {
    const next = [above + 1];
    for (const [at, other] of Array.from(b).entries()) {
      const [diagonal = 0, up = 0] = row.slice(at, at + 2);
      next.push(Math.min(diagonal + (letter === other ? 0 : 1), up + 1, (next[at] ?? 0) + 1));
    }
    row = next;
  }
  return row.at(-1) ?? 0;
}

import { readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import GithubSlugger from 'github-slugger';
import { lexer, type Token, type Tokens, walkTokens } from 'marked';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

/** A fenced block. */
export interface Block {
  line: number;
  language: string;
  /** What stands behind the language, such as `no-run`. */
  marks: string[];
  text: string;
  /** The block that directly follows: what a shell block prints. */
  answer: Block | null;
}

export interface Page {
  /** Relative to the root of the repository. */
  name: string;
  text: string;
  lines: number;
  blocks: Block[];
  /** Addresses of links and images, as they are written. */
  links: string[];
  /** What `#…` can name here: headings as GitHub makes their ids, and ids in HTML. */
  anchors: Set<string>;
  /** Texts of inline code. */
  code: string[];
}

export function pages(): Page[] {
  return ['', 'docs', 'clients', 'examples', 'deploy']
    .flatMap((folder) => markdownIn(folder))
    .map((name) => pageOf(name, readFileSync(join(ROOT, name), 'utf8')));
}

/** Of the root its own files alone. */
function markdownIn(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: folder !== '' })
    .map((path) => join(folder, String(path)))
    .filter((path) => path.endsWith('.md') && !/(^|[/\\])(node_modules|\.[^/\\]+)[/\\]/.test(path))
    .map((path) => path.split(sep).join('/'))
    .sort();
}

export function pageOf(name: string, text: string): Page {
  const page: Page = {
    ...{ name, text, lines: text.trimEnd().split('\n').length },
    ...{ blocks: [], links: [], anchors: new Set<string>(), code: [] },
  };
  const slugger = new GithubSlugger();
  const tokens = lexer(text);
  void walkTokens(tokens, (token) => {
    if (token.type === 'codespan') page.code.push((token as Tokens.Codespan).text);
    else if (token.type === 'link' || token.type === 'image') page.links.push((token as Tokens.Link).href);
    else if (token.type === 'html') ofHtml((token as Tokens.HTML).text, page);
    else if (token.type === 'heading')
      page.anchors.add(slugger.slug(plain((token as Tokens.Heading).tokens)));
  });
  addBlocks(tokens, 1, page.blocks);
  return page;
}

/** Of lists and quotes, too; a block in one of them has the line where that begins. */
function addBlocks(tokens: Token[], firstLine: number, blocks: Block[]): void {
  let line = firstLine;
  let before: Block | null = null;
  for (const token of tokens) {
    if (token.type === 'code') {
      const { lang = '', text } = token as Tokens.Code;
      const [language = '', ...marks] = lang.trim().split(/\s+/);
      const block: Block = { line, language, marks, text, answer: null };
      if (before !== null) before.answer = block;
      blocks.push(block);
      before = block;
    } else if (token.type !== 'space') before = null;
    if (token.type === 'list') addBlocks((token as Tokens.List).items, line, blocks);
    else if (token.type === 'list_item' || token.type === 'blockquote') {
      addBlocks(token.tokens ?? [], line, blocks);
    }
    line += token.raw.split('\n').length - 1;
  }
}

function ofHtml(html: string, page: Page): void {
  for (const [, , id] of html.matchAll(/\b(id|name)="([^"]*)"/g)) page.anchors.add(id!);
  for (const [, , address] of html.matchAll(/\b(href|src)="([^"]*)"/g)) page.links.push(address!);
}

function plain(tokens: Token[] = []): string {
  return tokens
    .map((token) => {
      if (token.type === 'html') return '';
      return 'tokens' in token ? plain(token.tokens) : (token as Tokens.Text).text;
    })
    .join('');
}

/** What is wrong with a link of the page, or null. */
export function faultOf(link: string, page: Page, all: ReadonlyMap<string, Page>): string | null {
  if (/^(https?:|mailto:)/.test(link)) return null;
  const [path = '', anchor] = link.split('#');
  const target =
    path === ''
      ? page.name
      : relative(ROOT, join(ROOT, dirname(page.name), decodeURIComponent(path)))
          .split(sep)
          .join('/');
  if (target.startsWith('..')) return 'is outside of the repository';
  const other = target === page.name ? page : all.get(target);
  if (other === undefined && statSync(join(ROOT, target), { throwIfNoEntry: false }) === undefined) {
    return 'leads to no file';
  }
  if (anchor === undefined) return null;
  if (other === undefined) return /^L\d+$/.test(anchor) ? null : 'has an anchor in what is no page';
  return other.anchors.has(decodeURIComponent(anchor)) ? null : 'names no heading of the page';
}

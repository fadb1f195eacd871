import type { SyntaxNode } from '@lezer/common';
import { parser } from '@prometheus-io/lezer-promql';

/** What a query reads: a metric, and the labels that it is chosen by, each with the values that are named. */
export interface Selector {
  metric: string;
  labels: { name: string; values: string[]; isRegex: boolean }[];
  /** The labels that the result is to have, because an aggregation around it groups by them. */
  groupedBy: string[];
}

/** Reads a query with Prometheus's own grammar. @throws Error when it is none */
export function selectorsOf(query: string): Selector[] {
  const text = (node: SyntaxNode) => query.slice(node.from, node.to);
  const selectors: Selector[] = [];
  parser.parse(query).iterate({
    enter: ({ type, node }) => {
      if (type.isError) throw new Error(`No PromQL at ${node.from}: ${query}`);
      if (type.name !== 'VectorSelector') return;
      const name = node.getChild('Identifier');
      if (name === null) throw new Error(`A selector without a metric: ${query}`);
      const matchers = node.getChild('LabelMatchers')?.getChildren('UnquotedLabelMatcher') ?? [];
      selectors.push({
        metric: text(name),
        labels: matchers.map((matcher) => {
          const [label, operator, value] = [
            matcher.firstChild!,
            matcher.getChild('MatchOp')!,
            matcher.lastChild!,
          ];
          const isRegex = text(operator).endsWith('~');
          const given = text(value).slice(1, -1);
          return { name: text(label), values: isRegex ? given.split('|') : [given], isRegex };
        }),
        groupedBy: groupedBy(node, text),
      });
    },
  });
  return selectors;
}

function groupedBy(node: SyntaxNode, text: (node: SyntaxNode) => string): string[] {
  const labels: string[] = [];
  for (let outer = node.parent; outer !== null; outer = outer.parent) {
    for (const clause of ['AggregateModifier', 'MatchingModifierClause']) {
      const names = outer.getChild(clause)?.getChild('GroupingLabels')?.getChildren('LabelName') ?? [];
      labels.push(...names.map(text));
    }
  }
  return labels;
}

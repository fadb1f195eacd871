/** Connections that may wait to be accepted: with Node's 511, some are lost when thousands of agents come at once. */
export const BACKLOG = 4096;
